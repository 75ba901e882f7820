#!/usr/bin/env python3
"""PyTorch beside `apb bench attention`: scaled_dot_product_attention by each backend, and products by cuBLAS.

    peer.py --dtype bf16 --shapes 32/8x128 --tokens 4096,16384 [--cases causal,apb,decode] [--model config.json]

Every case is a line of JSON on stdout when it is done; the last line says whose they are. Pairs of a row and a key that it
sees are counted as `apb` counts them. Flash has no mask for APB's regions: the `apb` case is a causal rectangle, aligned
bottom-right, of the same rows and the same count of pairs, so that what is compared is the rate per counted operation. cuDNN
has no bottom-right mask either without a dense one: there it is a whole rectangle, of the same rows and the same count.
`--model` adds the products of its linear layers, of --chunk rows and of one."""
import argparse
import itertools
import json
import statistics
import sys
import time

SECONDS = 0.3
WARM_UP = 3
GEMM = 8192
RANKS = 8
# Weights that take turns: one alone would stay in the cache, where a product of one row finds it.
COPIES = 8


def problem(case, tokens, whole=False):
    """Rows, keys and pairs, as cli/src/commands/bench/cases.rs counts them; `whole`: without a mask."""
    triangle = lambda n: n * (n + 1) / 2
    if case == "causal":
        return tokens, tokens, triangle(tokens)
    if case == "decode":
        return 1, tokens, float(tokens)
    block = max(tokens // RANKS, 1)
    anchor, passing = block // 4, (RANKS - 1) * (block // 8)
    pairs = triangle(anchor) + block * (anchor + passing) + triangle(block)
    rows = anchor + block
    if whole:
        return rows, round(pairs / rows), pairs
    # rows * keys - (pairs above the diagonal) = pairs
    return rows, round(pairs / rows + (rows - 1) / 2), pairs


def timed(torch, run):
    """Median seconds by events on the device, after a warm-up; calls are queued in batches."""
    for _ in range(WARM_UP):
        run()
    torch.cuda.synchronize()
    times, began = [], time.perf_counter()
    while len(times) < 5 or time.perf_counter() - began < SECONDS:
        batch = 4
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(batch):
            run()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1e3 / batch)
    return statistics.median(times)


def attention(torch, dtype, shape, case, tokens, backend):
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.attention.bias import causal_lower_right
    from torch.nn.functional import scaled_dot_product_attention as sdpa

    heads, kv_heads, head_dim = shape
    whole = case == "apb" and backend == "CUDNN_ATTENTION"
    rows, keys, pairs = problem(case, tokens, whole)
    random = lambda h, n: torch.randn(1, h, n, head_dim, device="cuda", dtype=dtype)
    q, k, v = random(heads, rows), random(kv_heads, keys), random(kv_heads, keys)

    def call(repeated):
        grouped = {} if repeated else {"enable_gqa": True}
        k_, v_ = (k, v) if not repeated else (x.repeat_interleave(heads // kv_heads, 1) for x in (k, v))
        if case == "causal":
            return lambda: sdpa(q, k_, v_, is_causal=True, **grouped)
        if case == "decode" or whole:
            return lambda: sdpa(q, k_, v_, **grouped)
        mask = causal_lower_right(rows, keys)
        return lambda: sdpa(q, k_, v_, attn_mask=mask, **grouped)

    row = {"case": case, "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "tokens": tokens,
           "rows": rows, "keys": keys, "backend": backend,
           "equivalent": {True: "whole rectangle", False: "causal rectangle"}[whole] if case == "apb" else None}
    reasons = []
    with sdpa_kernel([getattr(SDPBackend, backend)]):
        for repeated in [False, True]:
            try:
                seconds = timed(torch, call(repeated))
            except (RuntimeError, ValueError, TypeError) as error:
                reasons.append(str(error).splitlines()[0])
                continue
            row.update(seconds=seconds, keys_repeated=repeated,
                       gflops=4 * heads * head_dim * pairs / seconds / 1e9)
            return row
    row["refused"] = reasons
    return row


def products(torch, dtype, config, chunk):
    """A linear layer of each shape of the model: operations and bytes of weights a second."""
    from torch.nn.functional import linear

    c = config
    hidden, wide, d = c["hidden_size"], c["intermediate_size"], c["head_dim"]
    queries, keys = c["num_attention_heads"] * d, c["num_key_value_heads"] * d
    random = lambda *shape: torch.empty(*shape, device="cuda", dtype=dtype).normal_(0, 0.02)
    for name, out, into in [("q", queries, hidden), ("k, v", keys, hidden), ("o", hidden, queries),
                            ("gate, up", wide, hidden), ("down", hidden, wide)]:
        weights = itertools.cycle([random(out, into) for _ in range(COPIES)])
        for rows in [chunk, 1]:
            x = random(rows, into)
            seconds = timed(torch, lambda: linear(x, next(weights)))
            yield {"product": name, "rows": rows, "out": out, "in": into, "seconds": seconds,
                   "gflops": 2 * rows * out * into / seconds / 1e9,
                   "gigabytes_per_second": out * into * x.element_size() / seconds / 1e9}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=["bf16", "f16"], default="bf16")
    parser.add_argument("--shapes", default="32/8x128,32/8x64")
    parser.add_argument("--tokens", default="4096,16384,65536,131072")
    parser.add_argument("--cases", default="causal,apb,decode")
    parser.add_argument("--backends", default="FLASH_ATTENTION,CUDNN_ATTENTION")
    parser.add_argument("--model", help="a config.json")
    parser.add_argument("--chunk", type=int, default=8192)
    args = parser.parse_args()
    try:
        import torch
    except ImportError as error:
        print(f"peer.py: no PyTorch: {error}", file=sys.stderr)
        return 3
    if not torch.cuda.is_available():
        print("peer.py: PyTorch sees no CUDA device", file=sys.stderr)
        return 3
    say = lambda row: print(json.dumps(row), flush=True)
    dtype = {"bf16": torch.bfloat16, "f16": torch.float16}[args.dtype]
    a, b = (torch.randn(GEMM, GEMM, device="cuda", dtype=dtype) for _ in range(2))
    gemm = 2 * GEMM**3 / timed(torch, lambda: a @ b) / 1e9
    source = torch.ones(256 << 20, device="cuda")
    memory = 2 * source.nbytes / timed(torch, lambda: source + 1) / 1e9
    peak = {"gemm_gflops": gemm, "memory_gigabytes_per_second": memory}
    say(peak)
    del a, b, source
    if args.model:
        for row in products(torch, dtype, json.load(open(args.model)), args.chunk):
            say(row)
        torch.cuda.empty_cache()
    for shape in args.shapes.split(","):
        heads, rest = shape.split("/")
        kv_heads, head_dim = rest.split("x")
        for tokens in args.tokens.split(","):
            for case in args.cases.split(","):
                for backend in args.backends.split(","):
                    sizes = int(heads), int(kv_heads), int(head_dim)
                    say(attention(torch, dtype, sizes, case, int(tokens), backend))
                    torch.cuda.empty_cache()
    say({"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
         "device": torch.cuda.get_device_name(0), "dtype": args.dtype, **peak})
    return 0


if __name__ == "__main__":
    sys.exit(main())
