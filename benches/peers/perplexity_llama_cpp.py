#!/usr/bin/env python3
"""The perplexity of token ids under a GGUF file by llama.cpp: the windows, the scored tokens and the JSON keys of
examples/perplexity.rs.

usage: perplexity_llama_cpp.py GGUF IDS.json [--tokens 20000] [--window 1024] [--rows 512] [--kv-dtype f16]
           [--threads 2]

IDS.json is what tokens.py prints, the same file that the example takes as --ids; no token is put before a window. A
pass is of --rows tokens, with flash attention. `dtype` is what llama.cpp calls the file's. Needs llama-cpp-python and
numpy."""
import argparse, json, pathlib, sys

import llama_cpp
import numpy as np

from machine import instruction_set

# ggml's numbers of its types.
KV_DTYPES = {"f32": 0, "f16": 1, "q8_0": 8, "bf16": 30}
# ggml's number of the level of errors.
ERROR = 4
# The most rows whose probabilities are computed at once.
LOGIT_ROWS = 128


def surprise(logits, targets):
    """The sum of the negative logarithms of the targets' probabilities; logits are `[targets, vocab]`."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    sums = np.exp(shifted).sum(axis=1, dtype=np.float64)
    return float((np.log(sums) - shifted[np.arange(len(targets)), targets]).sum())


def print_error(level, text, _):
    if level == ERROR:
        sys.stderr.write(text.decode("utf-8", "replace"))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("gguf", type=pathlib.Path)
    parser.add_argument("ids", type=pathlib.Path)
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--window", type=int, default=1_024)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--kv-dtype", choices=KV_DTYPES, default="f16")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    ids, window = json.loads(args.ids.read_text()), args.window
    if len(ids) < args.tokens:
        sys.exit(f"{args.ids}: expected at least {args.tokens} tokens, found {len(ids)}")
    windows = args.tokens // window if window >= 3 else 0
    if not windows or args.rows < 1:
        sys.exit("expected a window of tokens, of 3 or more, and a row")

    # Held by a name: llama.cpp calls it as long as this runs.
    log = llama_cpp.llama_log_callback(print_error)
    llama_cpp.llama_log_set(log, None)
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(str(args.gguf).encode(), llama_cpp.llama_model_default_params())
    if not model:
        sys.exit(f"llama.cpp does not load {args.gguf}")
    words = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    description = llama_cpp.ctypes.create_string_buffer(256)
    llama_cpp.llama_model_desc(model, description, len(description))

    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = window
    params.n_ubatch = min(args.rows, window)
    params.n_threads = params.n_threads_batch = args.threads
    params.type_k = params.type_v = KV_DTYPES[args.kv_dtype]
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        sys.exit(f"llama.cpp makes no context of {window} tokens with a cache in {args.kv_dtype}")
    batch = llama_cpp.llama_batch_init(window, 0, 1)
    batch.n_tokens = window
    first = window // 2
    scored, loss = 0, 0.0
    for number in range(windows):
        tokens = ids[number * window : (number + 1) * window]
        for place, token in enumerate(tokens):
            batch.token[place], batch.pos[place] = token, place
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
            # Each of these rows predicts the token after it.
            batch.logits[place] = first <= place < window - 1
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        if llama_cpp.llama_decode(context, batch):
            sys.exit("llama_decode failed")
        targets = np.array(tokens[first + 1 :])
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(context), shape=(len(targets), words))
        for start in range(0, len(targets), LOGIT_ROWS):
            loss += surprise(logits[start : start + LOGIT_ROWS], targets[start : start + LOGIT_ROWS])
        scored += len(targets)
        print(f"window {number + 1} of {windows}: {np.exp(loss / scored):.4f}", file=sys.stderr, flush=True)
    llama_cpp.llama_batch_free(batch)
    print(json.dumps({
        "program": "llama.cpp", "model": args.gguf.name, "dtype": description.value.decode().split(" ", 2)[-1].lower(),
        "kv_dtype": args.kv_dtype, "dequantized": False, "window": window, "rows": args.rows, "simd": instruction_set(),
        "scored": scored, "perplexity": float(np.exp(loss / scored))}))


if __name__ == "__main__":
    main()
