#!/usr/bin/env python3
"""Prints what the programs of a GPU bundle print, and refuses flags as they do; which one is the name it is called by.

    STAND_IN_FAILS=TEST     that test fails
    STAND_IN_PRINTS=N       every test prints so many characters first
    STAND_IN_HANGS=WORDS    after the first line that it logs or prints, a bench or peer never ends whose command holds them"""
import argparse
import json
import os
import re
import signal
import sys

KERNEL = "wgmma_bf16_d128_r192_k80"
TESTS = ["attention::attention_d128_bf16", "attention::attention_d64_bf16", "attention::attention_d96_f16",
         "operations::linear_f32", "traces::traces_of_exact_methods_bf16"]


def numbers(text):
    return [int(number) for number in text.split(",")]


def log(path, row):
    if path:
        with open(path, "a") as file:
            file.write(json.dumps(row) + "\n")
    hang()
    return row


def hang():
    words = os.environ.get("STAND_IN_HANGS")
    if words and words in " ".join(sys.argv):
        signal.pause()


def watched():
    """What CubeCL writes beside."""
    folder = os.environ.get("CUBECL_CUDA_DUMP_PTX")
    if folder:
        for name in [KERNEL, "copy"]:
            with open(os.path.join(folder, f"{name}.ptx"), "w") as file:
                file.write(f".version 9.0\n.target sm_90a\n.visible .entry {name}()\n")
    if os.path.exists("cubecl.toml"):
        path = json.loads(re.search("^file = (.*)$", open("cubecl.toml").read(), re.M)[1])
        with open(path, "a") as file:
            file.write("Fastest result matmul-x. Top 3 times: []\n")


def prefill(words):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for flag in ["json", "random-weights"]:
        parser.add_argument(f"--{flag}", action="store_true")
    for flag in ["model", "device", "dtype", "chunk", "runs", "methods", "tokens", "log"]:
        parser.add_argument(f"--{flag}", required=True)
    for flag in ["decode", "ranks", "only-rank", "warm-up"]:
        parser.add_argument(f"--{flag}", type=int)
    args = parser.parse_args(words)
    methods, alone = args.methods.split(","), args.only_rank is not None
    ranks = args.ranks or 1
    if alone and (args.decode or "full" in methods or args.only_rank >= ranks) or (methods == ["full"] and ranks > 1):
        sys.exit("apb: these flags do not go together")
    assert os.path.exists(args.model)
    watched()
    rows = []
    for warm_up in [True] * (args.warm_up or 0) + [False]:
        for tokens in numbers(args.tokens):
            for method in methods:
                seconds = tokens / 1e4 / ranks
                rows.append(log(args.log, {
                    "method": method, "ranks": 1 if method == "full" else ranks, "tokens": tokens, "warm_up": warm_up,
                    "prefill_seconds": seconds, "timed_seconds": seconds, "critical_seconds": seconds,
                    "parts": {"projections": seconds / 4, "attention": seconds / 2, "mlp": seconds / 4},
                    "rank_seconds": [seconds], "decode_tokens_per_second": 50.0 if args.decode else None,
                    "peak_bytes": 1 << 34}))
    print(json.dumps({"model": args.model, "rows": rows}))


def attention(words):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for flag in ["json", "no-burn"]:
        parser.add_argument(f"--{flag}", action="store_true")
    for flag in ["device", "dtype", "shapes", "tokens"]:
        parser.add_argument(f"--{flag}", required=True)
    parser.add_argument("--cases", default="causal,apb,decode")
    parser.add_argument("--log")
    args = parser.parse_args(words)
    watched()
    rows = []
    for shape in args.shapes.split(","):
        for tokens in numbers(args.tokens):
            rows += [log(args.log, case_row(shape, case, tokens)) for case in args.cases.split(",")]
    print(json.dumps({"device": args.device, "dtype": "BF16", "gemm_gflops": 683218.7, "memory_gigabytes_per_second": 2707.7,
                      "rows": rows}))


def case_row(shape, case, tokens):
    heads, kv_heads, head_dim = map(int, re.split("[/x]", shape))
    return {"case": case, "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "tokens": tokens, "seconds": 0.00123,
            "gflops": 400e3}


def apb(words):
    if words == ["doctor", "--json"]:
        print(json.dumps({"checks": [{"name": name, "state": "ok"} for name in ["apb", "python3"]]}))
    else:
        {"prefill": prefill, "attention": attention}[words[1]](words[2:])


def gpu_tests(words):
    if words == ["--list", "--format", "terse"]:
        print("\n".join(f"{name}: test" for name in TESTS))
        return
    exact, name, nocapture = words
    assert (exact, nocapture) == ("--exact", "--nocapture") and name in TESTS, words
    assert os.path.isdir(os.environ["APB_TEST_FIXTURES"])
    print("x" * int(os.environ.get("STAND_IN_PRINTS", 0)))
    forced = os.environ.get("APB_TENSOR_CORE")
    if "attention" in name:
        print("RESULT " + json.dumps({"kernels": [forced or KERNEL], "worst_out_of_allowed": 0.75}))
    if name == os.environ.get("STAND_IN_FAILS"):
        print("FAILED 1x2x3: off by 0.5\ntest result: FAILED. 0 passed; 1 failed")
        sys.exit(101)
    print("test result: ok. 1 passed; 0 failed")


def python(words):
    """A Python with PyTorch."""
    name = os.path.basename(words[0])
    # Our libraries would shadow PyTorch's.
    assert "stand-in-cuda/lib64" not in os.environ["LD_LIBRARY_PATH"]
    flags = dict(zip(words[1::2], words[2::2]))

    def say(row):
        print(json.dumps(row), flush=True)
        hang()

    if name == "order.py":
        say({"holds": True, "microseconds": 2.7, "driver": 13000})
        return
    backends = ["FLASH_ATTENTION", "CUDNN_ATTENTION"]
    peak = {"gemm_gflops": 678e3, "memory_gigabytes_per_second": 2996.0}
    if name == "peer_prefill.py":
        for tokens in numbers(flags["--tokens"]):
            for backend in backends:
                say({"tokens": tokens, "backend": backend, "prefill_seconds": 1.5, "decode_tokens_per_second": 75.0})
        say({"torch": "2.11"})
        return
    say(peak)
    say({"product": "q", "rows": 8192, "in": 4096, "out": 4096, "seconds": 0.0004, "gflops": 7e5, "gigabytes_per_second": 80.0})
    for shape in flags["--shapes"].split(","):
        for tokens in numbers(flags["--tokens"]):
            for case in ["causal", "apb", "decode"]:
                for backend in backends:
                    say({**case_row(shape, case, tokens), "backend": backend})
    say({"torch": "2.11", **peak})


def nvidia_smi(words):
    busy = "--query-gpu=utilization.gpu,clocks.sm,clocks.mem,power.draw,temperature.gpu" in words
    print("97, 1755, 2619, 612.50, [N/A]" if busy else "Stand-in H100, 580.1, 81559 MiB, 345 MHz, 2619 MHz")


def ptxas(words):
    verbose, architecture, source, output, path = words
    assert (verbose, architecture, output) == ("-v", "-arch=sm_90a", "-o"), words
    open(path, "w").close()
    spilled = 8 if "copy" in source else 0
    print(f"ptxas info    : Function properties for x\n    0 bytes stack frame, {spilled} bytes spill stores, {spilled} bytes "
          "spill loads\nptxas info    : Used 168 registers, used 1 barriers, 384 bytes smem", file=sys.stderr)


def ncu(words):
    print("wgmma  Tensor pipe 44 %")


if __name__ == "__main__":
    globals()[os.path.basename(sys.argv[0]).replace("-", "_")](sys.argv[1:])
