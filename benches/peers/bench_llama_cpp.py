#!/usr/bin/env python3
"""Prefill and decode of a Llama folder by llama.cpp, on the CPU.

usage: bench_llama_cpp.py MODEL TEXT TOKENS,.. DECODE RUNS GGUF [THREADS]

Prints one JSON line for each number of tokens: medians over the runs, for the faster of flash attention on and off.
GGUF is written from the folder where it is not there, matrices as DTYPE says (f32, bf16, q8_0, q4_0, q4_1, q5_0 or q5_1). llama.cpp comes with llama-cpp-python, built for this machine,
or else with xllamacpp, built for AVX2; needs the Python packages gguf, numpy and tokenizers too.
"""
import json, os, pathlib, statistics, struct, sys, time

import gguf
import numpy as np
from tokenizers import Tokenizer

BATCH = 512
DTYPES = {
    "f32": (None, gguf.LlamaFileType.ALL_F32),
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    **{name.lower(): (gguf.GGMLQuantizationType[name], gguf.LlamaFileType["MOSTLY_" + name])
       for name in ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")},
}
WARM_UP = 256


def tensors(path):
    """Name and f32 array of each tensor of a safetensors file."""
    data = np.memmap(path, dtype=np.uint8, mode="r")
    (header,) = struct.unpack("<Q", data[:8].tobytes())
    for name, entry in json.loads(data[8 : 8 + header].tobytes()).items():
        if name != "__metadata__":
            begin, end = (8 + header + offset for offset in entry["data_offsets"])
            raw = data[begin:end]
            if entry["dtype"] == "BF16":
                array = (raw.view("<u2").astype("<u4") << 16).view("<f4")
            else:
                array = raw.view({"F32": "<f4", "F16": "<f2"}[entry["dtype"]]).astype("<f4")
            yield name, array.reshape(entry["shape"])


NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}


def gguf_name(name):
    top = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
           "lm_head.weight": "output.weight"}
    if name in top:
        return top[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"


def interleave(weight, heads):
    """llama.cpp's row order of q and k for its rotary embedding."""
    rows = weight.shape[0]
    return weight.reshape(heads, 2, rows // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(folder, path):
    config = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    partial = f"{path}.partial"
    w = gguf.GGUFWriter(partial, "llama")
    w.add_context_length(config["max_position_embeddings"])
    w.add_embedding_length(config["hidden_size"])
    w.add_block_count(config["num_hidden_layers"])
    w.add_feed_forward_length(config["intermediate_size"])
    w.add_head_count(heads)
    w.add_head_count_kv(kv_heads)
    w.add_rope_dimension_count(head_dim)
    w.add_rope_freq_base(config["rope_theta"])
    w.add_layer_norm_rms_eps(config["rms_norm_eps"])
    w.add_vocab_size(config["vocab_size"])
    kind, file_type = DTYPES[os.environ.get("DTYPE", "f32")]
    w.add_file_type(file_type)
    words = {id: token for token, id in tokenizer["model"]["vocab"].items()}
    special = {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    words.update(special)
    count = config["vocab_size"]
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("smollm")
    w.add_token_list([words.get(id, f"[unused {id}]") for id in range(count)])
    kinds = (gguf.TokenType.CONTROL if id in special else gguf.TokenType.NORMAL for id in range(count))
    w.add_token_types([int(kind) for kind in kinds])
    merges = tokenizer["model"]["merges"]
    w.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    w.add_bos_token_id(config["bos_token_id"])
    w.add_eos_token_id(config["eos_token_id"])
    for name, array in tensors(folder / "model.safetensors"):
        if ".q_proj." in name:
            array = interleave(array, heads)
        if ".k_proj." in name:
            array = interleave(array, kv_heads)
        array = np.ascontiguousarray(array)
        # Norms are vectors, and stay f32.
        if array.ndim == 2 and kind is not None:
            w.add_tensor(gguf_name(name), gguf.quants.quantize(array, kind), raw_dtype=kind)
        else:
            w.add_tensor(gguf_name(name), array)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    os.replace(partial, path)


class Native:
    """llama-cpp-python: llama.cpp's own functions, called one batch at a time."""

    name = "llama.cpp (llama-cpp-python)"

    def __init__(self, path, threads, flash_attn, context):
        import llama_cpp
        self.library = llama_cpp
        self.llama = llama_cpp.Llama(
            str(path), n_ctx=context, n_batch=BATCH, n_ubatch=BATCH, n_threads=threads, n_threads_batch=threads,
            flash_attn=flash_attn, use_mmap=True, verbose=False)

    def likeliest(self):
        logits = self.library.llama_get_logits_ith(self.llama._ctx.ctx, -1)
        return int(np.ctypeslib.as_array(logits, shape=(self.llama.n_vocab(),)).argmax())

    def run(self, ids, decode):
        self.llama.reset()
        start = time.perf_counter()
        self.llama.eval(ids)
        generated = [self.likeliest()]
        prefill = time.perf_counter() - start
        start = time.perf_counter()
        for _ in range(decode):
            self.llama.eval([generated[-1]])
            generated.append(self.likeliest())
        speed = decode / (time.perf_counter() - start)
        return prefill, speed, self.llama.detokenize(generated).decode("utf-8", "replace")


class Prebuilt:
    """xllamacpp: llama.cpp's server inside the process, by its own clock."""

    name = "llama.cpp (xllamacpp)"

    def __init__(self, path, threads, flash_attn, context):
        import xllamacpp
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_parallel = context, BATCH, BATCH, 1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        kinds = xllamacpp.llama_flash_attn_type
        params.flash_attn_type = (kinds.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash_attn
                                  else kinds.LLAMA_FLASH_ATTN_TYPE_DISABLED)
        params.cache_ram_mib = 0
        params.verbosity = -1
        self.server = xllamacpp.Server(params)

    def run(self, ids, decode):
        # The first token comes with the prefill, so one more than the steps of decode.
        answer = self.server.handle_completions({
            "prompt": ids, "n_predict": decode + 1, "temperature": 0, "ignore_eos": True, "cache_prompt": False})
        if isinstance(answer, str):
            answer = json.loads(answer)
        timings = answer["timings"]
        assert timings["prompt_n"] == len(ids), timings
        return timings["prompt_ms"] / 1e3, decode / (timings["predicted_ms"] / 1e3), answer["choices"][0]["text"]


def engine():
    try:
        import llama_cpp  # noqa: F401
        return Native
    except ImportError:
        return Prebuilt


def main():
    folder, text, counts, decode, runs, path = sys.argv[1:7]
    threads = int(sys.argv[7]) if len(sys.argv) > 7 else 2
    decode, runs, path = int(decode), int(runs), pathlib.Path(path)
    folder, counts = pathlib.Path(folder), [int(count) for count in counts.split(",")]
    if not path.exists():
        write_gguf(folder, path)
    text = pathlib.Path(text).read_text(encoding="utf-8")
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    best = {}
    for flash_attn in (True, False):
        kind = Prebuilt if os.environ.get("LLAMA_CPP") == "xllamacpp" else engine()
        llama = kind(path, threads, flash_attn, max(counts) + decode + 64)
        llama.run(ids[:WARM_UP], 1)
        for count in counts:
            done = [llama.run(ids[:count], decode) for _ in range(runs)]
            row = {"peer": llama.name, "tokens": count,
                   "prefill_seconds": statistics.median(run[0] for run in done),
                   "decode_tokens_per_second": statistics.median(run[1] for run in done),
                   "flash_attn": flash_attn, "generated": done[0][2]}
            if count not in best or row["prefill_seconds"] < best[count]["prefill_seconds"]:
                best[count] = row
        del llama
    for count in counts:
        print(json.dumps(best[count]), flush=True)


if __name__ == "__main__":
    main()
