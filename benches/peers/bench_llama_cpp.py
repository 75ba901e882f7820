#!/usr/bin/env python3
"""Prefill and decode of a GGUF file by llama.cpp, on the CPU.

usage: bench_llama_cpp.py GGUF IDS.json TOKENS,.. DECODE THREADS SETTING

Prints one JSON line for each number of tokens. SETTING is plain, or `fa` (flash attention), `repack` (weights are laid
out anew for the machine's kernels, AMX's among them) or both: fa+repack. llama.cpp comes with llama-cpp-python, built
for this machine; or else, or with LLAMA_CPP=xllamacpp, with xllamacpp, built for AVX2."""
import json, os, pathlib, re, sys, time

from machine import memory, reset_peak

BATCH = 512
WARM_UP = 256


class Native:
    """llama-cpp-python: llama.cpp's own functions, a context for each length."""

    name = "llama.cpp (llama-cpp-python)"

    def __init__(self, path, threads, flash_attn, repack):
        import llama_cpp
        import numpy
        self.as_array = numpy.ctypeslib.as_array
        self.library, self.threads, self.flash_attn = llama_cpp, threads, flash_attn
        self.buffers = {}
        self.log = llama_cpp.llama_log_callback(self.read_log)
        llama_cpp.llama_log_set(self.log, None)
        llama_cpp.llama_backend_init()
        self.base = memory("VmRSS")
        params = llama_cpp.llama_model_default_params()
        params.use_extra_bufts = repack
        # What is laid out anew need not stay mapped as well.
        params.load_mode = llama_cpp.LLAMA_LOAD_MODE_NONE if repack else llama_cpp.LLAMA_LOAD_MODE_MMAP
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            sys.exit(f"llama.cpp does not load {path}")
        info = llama_cpp.llama_print_system_info().decode()
        self.build = " ".join(re.findall(r"(\w+) = 1", info))

    def read_log(self, level, text, _):
        found = re.search(r"(\S+) model buffer size = +([\d.]+) MiB", text.decode("utf-8", "replace"))
        if found:
            self.buffers[found[1]] = float(found[2])

    def run(self, ids, decode):
        library = self.library
        params = library.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = len(ids) + decode + 1, len(ids), BATCH
        params.n_threads = params.n_threads_batch = self.threads
        params.flash_attn_type = (library.LLAMA_FLASH_ATTN_TYPE_ENABLED if self.flash_attn
                                  else library.LLAMA_FLASH_ATTN_TYPE_DISABLED)
        context = library.llama_init_from_model(self.model, params)
        words = library.llama_vocab_n_tokens(library.llama_model_get_vocab(self.model))

        def likeliest(ids):
            tokens = (library.llama_token * len(ids))(*ids)
            if library.llama_decode(context, library.llama_batch_get_one(tokens, len(ids))):
                sys.exit("llama_decode failed")
            logits = library.llama_get_logits_ith(context, -1)
            return int(self.as_array(logits, shape=(words,)).argmax())

        start = time.perf_counter()
        generated = [likeliest(ids)]
        prefill = time.perf_counter() - start
        start = time.perf_counter()
        for _ in range(decode):
            generated.append(likeliest(generated[-1:]))
        speed = decode / (time.perf_counter() - start)
        library.llama_free(context)
        return prefill, speed, {"generated_ids": generated, "build": self.build, "buffers_mib": self.buffers}


class Prebuilt:
    """xllamacpp: llama.cpp's server inside the process, by its own clock."""

    name = "llama.cpp (xllamacpp)"

    def __init__(self, path, threads, flash_attn, repack):
        import xllamacpp
        self.library, self.path, self.threads = xllamacpp, path, threads
        self.flash_attn, self.repack = flash_attn, repack
        self.build = " ".join(re.findall(r"(\w+) = 1", xllamacpp.get_system_info()))
        self.base = memory("VmRSS")

    def run(self, ids, decode):
        params = self.library.CommonParams()
        params.model.path = str(self.path)
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_parallel = len(ids) + decode + 64, BATCH, BATCH, 1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = self.threads
        kinds = self.library.llama_flash_attn_type
        params.flash_attn_type = (kinds.LLAMA_FLASH_ATTN_TYPE_ENABLED if self.flash_attn
                                  else kinds.LLAMA_FLASH_ATTN_TYPE_DISABLED)
        params.no_extra_bufts = not self.repack
        params.cache_ram_mib = 0
        params.verbosity = -1
        server = self.library.Server(params)
        # The first token comes with the prefill, so one more than the steps of decode.
        answer = server.handle_completions({
            "prompt": ids, "n_predict": decode + 1, "temperature": 0, "ignore_eos": True, "cache_prompt": False})
        if isinstance(answer, str):
            answer = json.loads(answer)
        timings = answer["timings"]
        assert timings["prompt_n"] == len(ids), timings
        facts = {"generated": answer["choices"][0]["text"], "build": self.build}
        return timings["prompt_ms"] / 1e3, decode / (timings["predicted_ms"] / 1e3), facts


def engine():
    if os.environ.get("LLAMA_CPP") != "xllamacpp":
        try:
            import llama_cpp  # noqa: F401
            return Native
        except ImportError:
            pass
    return Prebuilt


def main():
    path, ids, counts, decode, threads, setting = sys.argv[1:]
    ids, decode = json.loads(pathlib.Path(ids).read_text()), int(decode)
    words = set(setting.split("+"))
    if not words <= {"plain", "fa", "repack"}:
        sys.exit(f"setting {setting}: expected plain, fa, repack or fa+repack")
    llama = engine()(path, int(threads), "fa" in words, "repack" in words)
    llama.run(ids[:WARM_UP], 1)
    for count in map(int, counts.split(",")):
        reset_peak()
        prefill, speed, facts = llama.run(ids[:count], decode)
        print(json.dumps({"peer": llama.name, "setting": setting, "tokens": count, "prefill_seconds": prefill,
                          "decode_tokens_per_second": speed, "peak_bytes": memory("VmHWM"),
                          "base_bytes": llama.base, **facts}), flush=True)


if __name__ == "__main__":
    main()
