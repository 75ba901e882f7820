#!/usr/bin/env python3
"""Prefill and decode of a model folder by PyTorch on the CPU: transformers' model with scaled_dot_product_attention.

usage: bench_torch.py MODEL IDS.json TOKENS,.. DECODE THREADS f32|bf16 whole|chunks

Prints one JSON line for each number of tokens. The prefill is one pass (whole), or passes of 512 tokens (chunks).
Needs the Python packages torch and transformers."""
import inspect, json, os, pathlib, sys, time

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", HF_HUB_DISABLE_PROGRESS_BARS="1")

import torch
import transformers

from machine import memory, reset_peak

CHUNK = 512
WARM_UP = 256


@torch.inference_mode()
def run(model, ids, chunk, decode):
    """Seconds of the prefill, tokens a second after it, and the greedy ids."""
    # Version 5.24 has renamed it.
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    cache = {name: transformers.DynamicCache()}
    ids = torch.tensor([ids])

    def likeliest(ids):
        logits = model(input_ids=ids, **cache, use_cache=True, logits_to_keep=1).logits
        return logits[0, -1].argmax()

    start = time.perf_counter()
    for part in ids.split(chunk, dim=1):
        token = likeliest(part)
    generated = [token.item()]
    prefill = time.perf_counter() - start
    start = time.perf_counter()
    for _ in range(decode):
        generated.append(likeliest(torch.tensor([generated[-1:]])).item())
    return prefill, decode / (time.perf_counter() - start), generated


def main():
    folder, ids, counts, decode, threads, dtype, setting = sys.argv[1:]
    ids, decode = json.loads(pathlib.Path(ids).read_text()), int(decode)
    counts = [int(count) for count in counts.split(",")]
    torch.set_num_threads(int(threads))
    base = memory("VmRSS")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype={"f32": torch.float32, "bf16": torch.bfloat16}[dtype], attn_implementation="sdpa")
    model.eval()
    amx = " AMX" if getattr(torch.cpu, "_is_amx_tile_supported", bool)() else ""
    build = f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}{amx}"
    run(model, ids[:WARM_UP], CHUNK, 1)
    for count in counts:
        reset_peak()
        prefill, speed, generated = run(model, ids[:count], CHUNK if setting == "chunks" else count, decode)
        print(json.dumps({"peer": "PyTorch", "setting": setting, "tokens": count, "prefill_seconds": prefill,
                          "decode_tokens_per_second": speed, "peak_bytes": memory("VmHWM"), "base_bytes": base,
                          "build": build, "generated_ids": generated}), flush=True)


if __name__ == "__main__":
    main()
