#!/usr/bin/env python3
"""Runs the bundle that `scripts/gpu-check` builds, on a machine with a CUDA device, without Rust.

Kernel tests, then `apb bench attention` beside PyTorch, then `apb bench prefill` of a Llama-3.1-8B shape. Every
stage has a time limit of its own and leaves what it has; DIR gets

    YYYY-MM-DD-<device>.json   everything, for benches/results    summary.txt    the tables, as printed last
    tests.log, bench.log       what the programs said             prefill.jsonl  every prefill when it was done

Exit codes: 0 all passed, 1 a test or a bench failed, 3 no CUDA here."""
import argparse
import concurrent.futures
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time

import cuda
import tables

HERE = os.path.dirname(os.path.abspath(__file__))
APB = os.path.join(HERE, "bin", "apb")
TESTS = os.path.join(HERE, "bin", "gpu-tests")
STAGES = ["tests", "attention", "prefill"]

# Kernels are compiled by the processor, each process for itself: tests run side by side. Seconds.
TEST_JOBS = 12
TEST_LIMIT = 150
# Whole models tune dozens of matrix products; these start first.
TRACE_LIMIT = 480
# Attention of these head dimensions has two kernels; each is forced in turn.
FORCED = re.compile(r"attention::(attention|poisoned_keys)_d(64|128)_(bf16|f16)$")
# One bench of attention. Seconds.
BENCH_LIMIT = 120
# Rounds of apb and PyTorch in turns, and the variants of apb measured in each.
ROUNDS = 2
SHAPES = "32/8x128,32/8x64"
TOKENS = "4096,16384,65536,131072"
# The first length twice: once to compile and tune. With passes of 8,192 rows all tiles of the MLP tune as one.
PREFILL_TOKENS = "32768,32768,65536,131072,262144,524288"
PREFILL_CHUNK = "8192"
# Shares of the time that are left for a stage when it starts.
SHARE = {"tests": 0.4, "attention": 0.6, "prefill": 1.0}


class Deadline:
    def __init__(self, seconds):
        self.end = time.monotonic() + seconds

    def left(self):
        return self.end - time.monotonic()


def call(command, env, limit, extra=None):
    """Output, exit code and seconds; a command that runs past its limit is ended, with its children."""
    started = time.monotonic()
    process = subprocess.Popen(command, env={**env, **(extra or {})}, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True)
    try:
        out, err = process.communicate(timeout=max(limit, 1))
        code = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        out, err = process.communicate()
        code = "timeout"
    return {"code": code, "out": out, "err": err, "seconds": round(time.monotonic() - started, 2)}


def log(path, title, done):
    with open(path, "a") as file:
        file.write(f"===== {title}: exit {done['code']}, {done['seconds']} s\n{done['out']}\n{done['err']}\n")


def test_plan():
    """Each test by name, with what the environment is to force."""
    listed = subprocess.run([TESTS, "--list", "--format", "terse"], capture_output=True, text=True, check=True)
    names = [line[: -len(": test")] for line in listed.stdout.splitlines() if line.endswith(": test")]
    plan = [(name, "") for name in names]
    plan += [(name, choice) for name in names if FORCED.search(name) for choice in ["mma", "wgmma"]]
    # Then those that need kernels of their own alone, and those in f32 last, which says least.
    return sorted(plan, key=lambda test: ("trace" not in test[0], "f32" in test[0]))


def run_tests(args, env, deadline, results):
    extra = {"APB_TEST_DEVICE": args.device, "APB_TEST_BIN": APB, "CUBECL_AUTOTUNE_LEVEL": "minimal",
             "APB_TEST_FIXTURES": os.path.join(HERE, "fixtures"), "RUST_BACKTRACE": "0"}
    if args.device == "cuda":
        extra["APB_REQUIRE_CUDA"] = "1"

    def one(test):
        name, choice = test
        if deadline.left() < 2:
            return {"test": name, "forced": choice, "state": "not run", "results": [], "seconds": 0}
        forced = {"APB_TENSOR_CORE": choice} if choice else {}
        limit = min(TRACE_LIMIT if "trace" in name else TEST_LIMIT, deadline.left())
        done = call([TESTS, "--exact", name, "--nocapture"], env, limit, {**extra, **forced})
        log(os.path.join(args.out, "tests.log"), f"{name} {choice}", done)
        lines = done["out"].splitlines()
        state = {0: "passed", "timeout": "timeout"}.get(done["code"], "failed")
        if "1 passed" not in done["out"] and state == "passed":
            state = "failed"
        return {"test": name, "forced": choice, "state": state, "seconds": done["seconds"],
                "results": [json.loads(line[7:]) for line in lines if line.startswith("RESULT ")],
                "failures": [line[7:] for line in lines if line.startswith("FAILED ")][:20]}

    plan = [test for test in test_plan() if re.search(args.filter, test[0])]
    if args.device == "cpu":
        # There is nothing to force.
        plan = [test for test in plan if not test[1]]
    if args.quick:
        plan = [test for test in plan if "f32" not in test[0] and not test[1]]
    jobs = TEST_JOBS if args.device == "cuda" else 1
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        results["tests"] = list(pool.map(one, plan))
    return all(test["state"] == "passed" for test in results["tests"])


def bench(args, env, deadline, label, command, extra=None, limit=BENCH_LIMIT):
    """One JSON object of a program, or why there is none."""
    if deadline.left() < 5:
        return {"error": "not run: no time left"}
    done = call(command, env, min(limit, deadline.left()), extra)
    log(os.path.join(args.out, "bench.log"), label, done)
    try:
        value = json.loads(done["out"])
    except json.JSONDecodeError:
        last = (done["err"].strip().splitlines() or ["nothing was said"])[-1]
        return {"error": f"exit {done['code']}: {last[:400]}"}
    return {**value, "process_seconds": done["seconds"]}


def run_attention(args, env, deadline, results):
    tokens = "4096,16384" if args.quick else TOKENS
    rounds = 1 if args.quick else ROUNDS
    runs = results["attention"] = []
    for turn in range(rounds):
        variants = [("apb", "bf16", ""), ("peer", "bf16", "")]
        if turn == 0 and not args.quick:
            variants += [("apb", "bf16", "mma"), ("apb", "f16", ""), ("peer", "f16", "")]
        for who, dtype, choice in variants:
            lines = os.path.join(args.scratch, f"rows-{len(runs)}.jsonl")
            if who == "apb":
                command = [APB, "bench", "attention", "--json", "--no-burn", "--device", args.device, "--dtype",
                           dtype, "--shapes", SHAPES, "--tokens", tokens, "--log", lines]
            else:
                command = [args.python, os.path.join(HERE, "peer.py"), "--dtype", dtype, "--shapes", SHAPES,
                           "--tokens", tokens]
            extra = {"CUBECL_AUTOTUNE_LEVEL": args.autotune, **({"APB_TENSOR_CORE": choice} if choice else {})}
            value = bench(args, env, deadline, f"attention {who} {dtype} {choice}", command, extra)
            if "error" in value and os.path.exists(lines):
                value["rows"] = [json.loads(line) for line in open(lines)]
            runs.append({"who": who, "dtype": dtype, "forced": choice, "round": turn, **value})
    return all("error" not in run for run in runs)


def run_prefill(args, env, deadline, results):
    lines = os.path.join(args.out, "prefill.jsonl")
    command = [APB, "bench", "prefill", "--json", "--random-weights", "--model",
               os.path.join(HERE, "llama-3.1-8b.json"), "--device", args.device, "--dtype", "bf16", "--ranks", "8",
               "--methods", "apb,full", "--tokens", "8192,8192" if args.quick else PREFILL_TOKENS, "--chunk",
               PREFILL_CHUNK, "--runs", "1", "--decode", "0", "--log", lines]
    value = bench(args, env, deadline, "prefill", command, {"CUBECL_AUTOTUNE_LEVEL": args.autotune},
                  limit=deadline.left())
    done = [json.loads(line) for line in open(lines)] if os.path.exists(lines) else []
    results["prefill"] = {"summary": value, "runs": done}
    # What was done before the time ran out counts.
    return bool(done)


def machine():
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.sm,clocks.mem", "--format=csv,noheader"]
    try:
        gpu = subprocess.run(query, capture_output=True, text=True, timeout=30).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        gpu = ""
    return {"gpu": gpu, "cpus": os.cpu_count(), "system": platform.platform()}


def results_file(results):
    device = (results["machine"]["gpu"] or results["device"]).split(",")[0]
    return f"{results['date']}-{re.sub('[^a-z0-9]+', '-', device.lower()).strip('-')}.json"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, metavar="DIR", help="where results and logs go")
    parser.add_argument("--only", default=",".join(STAGES), help="stages, comma-separated: tests, attention, prefill")
    parser.add_argument("--quick", action="store_true", help="fewer tests and shorter sequences")
    parser.add_argument("--seconds", type=float, default=560, help="for everything; a stage is cut when it is over")
    parser.add_argument("--filter", default="", metavar="REGEX", help="only tests whose name matches")
    parser.add_argument("--autotune", default="minimal", help="how many kernels matrix products are tuned over")
    parser.add_argument("--python", default="python3", help="the Python that has PyTorch")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu: proves the checks themselves")
    args = parser.parse_args()
    args.out = os.path.abspath(args.out)
    stages = args.only.split(",")
    if unknown := set(stages) - set(STAGES):
        parser.error(f"no stage {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
    os.makedirs(args.out, exist_ok=True)

    deadline = Deadline(args.seconds)
    with tempfile.TemporaryDirectory() as scratch:
        args.scratch = scratch
        env, found, missing = cuda.environment(scratch)
        print("\n".join(found))
        if missing and args.device == "cuda":
            print("gpu-check: cannot run here\n  " + "\n  ".join(missing), file=sys.stderr)
            return 3
        version = open(os.path.join(HERE, "version.txt")).read().strip()
        results = {"version": version, "date": datetime.date.today().isoformat(), "device": args.device,
                   "machine": machine(), "cuda": found, "stages": {}}
        results["doctor"] = bench(args, env, deadline, "doctor", [APB, "doctor", "--json"])
        passed = True
        for stage in [stage for stage in STAGES if stage in stages]:
            left = deadline.left() - 5
            last = stage == [s for s in STAGES if s in stages][-1]
            limit = Deadline(left if last else left * SHARE[stage])
            started = time.monotonic()
            good = {"tests": run_tests, "attention": run_attention, "prefill": run_prefill}[stage](
                args, env, limit, results)
            results["stages"][stage] = {"passed": good, "seconds": round(time.monotonic() - started, 1)}
            passed &= good
            # After every stage: a machine may go before the next is done.
            with open(os.path.join(args.out, results_file(results)), "w") as file:
                json.dump(results, file, indent=1)
    text = tables.summary(results)
    with open(os.path.join(args.out, "summary.txt"), "w") as file:
        file.write(text)
    print(text)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
