#!/usr/bin/env python3
"""A causal prefill of a Llama shape in PyTorch, with random weights.

    peer_prefill.py --model config.json --tokens 32768,131072 [--chunk 8192]

RMS norm, rotation, attention over all keys by flash and by cuDNN, silu MLP over `chunk` rows at a time, bf16, keys and
values kept; then 32 tokens one by one. Each length and backend once before it is timed. Nothing is compiled: PyTorch runs
operation after operation. Each is a line of JSON on stdout when it is done; the last line says whose they are."""
import argparse
import json
import sys
import time

DECODE = 32


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokens", default="32768,131072")
    parser.add_argument("--chunk", type=int, default=8192)
    args = parser.parse_args()
    try:
        import torch
    except ImportError as error:
        print(f"peer_prefill.py: no PyTorch: {error}", file=sys.stderr)
        return 3
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention as sdpa, silu

    torch.set_grad_enabled(False)
    c = json.load(open(args.model))
    hidden, heads, kv_heads, d = (c[key] for key in ["hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim"])
    wide, layers = c["intermediate_size"], c["num_hidden_layers"]
    new = lambda *shape: torch.empty(*shape, device="cuda", dtype=torch.bfloat16).normal_(0, 0.02)
    shapes = {"q": (heads * d, hidden), "k": (kv_heads * d, hidden), "v": (kv_heads * d, hidden), "o": (hidden, heads * d),
              "gate": (wide, hidden), "up": (wide, hidden), "down": (hidden, wide)}
    stack = [{name: new(*shape) for name, shape in shapes.items()} for _ in range(layers)]
    embed, head, norm = new(c["vocab_size"], hidden), new(c["vocab_size"], hidden), torch.ones(hidden, device="cuda", dtype=torch.bfloat16)

    def rotated(x, cos, sin):
        half = d // 2
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    def layer(x, weights, cache, start, cos, sin):
        rows = x.shape[0]
        n = rms_norm(x, (hidden,), norm, 1e-5)
        q = linear(n, weights["q"]).view(1, rows, heads, d).transpose(1, 2)
        k = linear(n, weights["k"]).view(1, rows, kv_heads, d).transpose(1, 2)
        v = linear(n, weights["v"]).view(1, rows, kv_heads, d).transpose(1, 2)
        keys, values = cache
        keys[:, :, start : start + rows] = rotated(k, cos, sin)
        values[:, :, start : start + rows] = v
        q = rotated(q, cos, sin)
        end = start + rows
        out = sdpa(q, keys[:, :, :end], values[:, :, :end], is_causal=rows > 1, enable_gqa=True)
        x = x + linear(out.transpose(1, 2).reshape(rows, heads * d), weights["o"])
        for part in range(0, rows, args.chunk):
            n = rms_norm(x[part : part + args.chunk], (hidden,), norm, 1e-5)
            x[part : part + args.chunk] += linear(silu(linear(n, weights["gate"])) * linear(n, weights["up"]), weights["down"])
        return x

    angles = 1.0 / c["rope_theta"] ** (torch.arange(0, d, 2, device="cuda", dtype=torch.float32) / d)

    def forward(ids, caches, start):
        turn = torch.outer(torch.arange(start, start + len(ids), device="cuda", dtype=torch.float32), angles)
        cos, sin = turn.cos().bfloat16(), turn.sin().bfloat16()
        x = embed[ids]
        for weights, cache in zip(stack, caches):
            x = layer(x, weights, cache, start, cos, sin)
        return linear(rms_norm(x[-1:], (hidden,), norm, 1e-5), head).argmax(-1)

    def once(tokens, backend):
        caches = [tuple(torch.empty(1, kv_heads, tokens + DECODE, d, device="cuda", dtype=torch.bfloat16) for _ in range(2))
                  for _ in range(layers)]
        ids = torch.randint(c["vocab_size"], (tokens,), device="cuda")
        with sdpa_kernel([backend]):
            torch.cuda.synchronize()
            started = time.perf_counter()
            token = forward(ids, caches, 0)
            torch.cuda.synchronize()
            prefilled = time.perf_counter()
            for step in range(DECODE):
                token = forward(token, caches, tokens + step)
                token.item()
            return prefilled - started, DECODE / (time.perf_counter() - prefilled)

    for tokens in map(int, args.tokens.split(",")):
        for backend in [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION]:
            row = {"tokens": tokens, "backend": backend.name}
            torch.cuda.reset_peak_memory_stats()
            try:
                once(tokens, backend)
                seconds, rate = once(tokens, backend)
                row.update(prefill_seconds=seconds, decode_tokens_per_second=rate,
                           peak_bytes=torch.cuda.max_memory_reserved())
            except (RuntimeError, ValueError) as error:
                row["refused"] = str(error).splitlines()[0][:200]
            print(json.dumps(row), flush=True)
            torch.cuda.empty_cache()
    print(json.dumps({"torch": torch.__version__, "device": torch.cuda.get_device_name(0)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
