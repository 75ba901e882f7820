#!/usr/bin/env python3
"""Runs the bundle that `scripts/gpu-check` builds, on a machine with a CUDA device, without Rust.

The most telling stages first: does a kernel run and is it right (smoke), prefill and decoding of a Llama-3.1-8B shape
(prefill) and the same in PyTorch (peer), attention beside PyTorch's (attention), counters of the attention kernel
(profile), and all tests. Every stage has seconds of its own, and leaves what it has when they are over; DIR gets

    YYYY-MM-DD-<device>.json   everything, for benches/results    summary.txt    the tables, as printed last
    tests.log, bench.log       what the programs said             prefill.jsonl  every prefill when it was done
    tuning.log                 which kernels products are given to   profile.txt    counters of the attention kernel

Exit codes: 0 all passed, 1 a test or a bench failed, 3 no CUDA here."""
import argparse
import concurrent.futures
import datetime
import glob
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time

import cuda
import tables

# Of programs that are not ours: our library paths would shadow what PyTorch brings.
PLAIN = dict(os.environ)
HERE = os.path.dirname(os.path.abspath(__file__))
APB = os.path.join(HERE, "bin", "apb")
TESTS = os.path.join(HERE, "bin", "gpu-tests")
# Each stage, and the most seconds it may take.
STAGES = {"smoke": 60, "prefill": 150, "peer": 60, "attention": 110, "profile": 45, "tests": 200}

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
ROUNDS = 1
SHAPES = "32/8x128,32/8x64"
TOKENS = "4096,16384,65536"
# A short one first, to compile and tune. With passes of 8,192 rows all tiles of the MLP tune as one.
PREFILL_TOKENS = "8192,32768,32768,131072"
PREFILL_CHUNK = "8192"
# Tokens decoded after each prefill.
DECODE = "32"
# The model of `--device cpu`.
SMALL = "llama-gqa"
# What a log keeps of one program's output, in characters.
LOG_CAP = 400_000
# Nsight Compute's sections: rates against the peak, what warps wait for, and the launch.
SECTIONS = ["SpeedOfLight", "ComputeWorkloadAnalysis", "MemoryWorkloadAnalysis", "WarpStateStats", "SchedulerStats",
            "InstructionStats", "LaunchStats", "Occupancy"]


class Deadline:
    def __init__(self, seconds):
        self.end = time.monotonic() + seconds

    def left(self):
        return self.end - time.monotonic()


def call(command, env, limit, extra=None, folder=None):
    """Output, exit code and seconds; a command that runs past its limit is ended, with its children."""
    started = time.monotonic()
    process = subprocess.Popen(command, env={**env, **(extra or {})}, stdout=subprocess.PIPE, cwd=folder,
                               stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True)
    try:
        out, err = process.communicate(timeout=max(limit, 1))
        code = process.returncode
    except subprocess.TimeoutExpired:
        threads = waiting(process.pid)
        os.killpg(process.pid, 9)
        out, err = process.communicate()
        code, err = "timeout", err + threads
    return {"code": code, "out": out, "err": err, "seconds": round(time.monotonic() - started, 2)}


def waiting(group):
    """What the threads of a process group are doing: name, state, where in the kernel they wait, and clock ticks used."""
    lines = []
    for path in glob.glob("/proc/[0-9]*/task/[0-9]*/stat"):
        try:
            name, rest = open(path).read().split("(", 1)[1].rsplit(")", 1)
            fields = rest.split()
            if int(fields[2]) != group:
                continue
            wait = open(path[: -len("stat")] + "wchan").read()
            lines.append(f"  {name:<16} {fields[0]} {wait:<28} user {fields[11]:>6} system {fields[12]:>6}")
        except (OSError, IndexError, ValueError):
            continue
    return "\nthreads when the time was over:\n" + "\n".join(sorted(lines)) + "\n"


def log(path, title, done):
    with open(path, "a") as file:
        file.write(f"===== {title}: exit {done['code']}, {done['seconds']} s\n")
        file.write(f"{done['out'][-LOG_CAP:]}\n{done['err'][-LOG_CAP:]}\n")


def test_plan():
    """Each test by name, with what the environment is to force."""
    listed = subprocess.run([TESTS, "--list", "--format", "terse"], capture_output=True, text=True, check=True)
    names = [line[: -len(": test")] for line in listed.stdout.splitlines() if line.endswith(": test")]
    plan = [(name, "") for name in names]
    plan += [(name, choice) for name in names if FORCED.search(name) for choice in ["mma", "wgmma"]]
    # Then those that need kernels of their own alone, and those in f32 last, which says least.
    return sorted(plan, key=lambda test: ("trace" not in test[0], "f32" in test[0]))


def run_smoke(args, env, deadline, results):
    """Whether the kernels of attention run and are right, and whether the driver orders streams of a context."""
    plan = [(f"attention::attention_d{d}_bf16", choice) for d in [128, 64] for choice in ["wgmma", "mma", "none"]]
    with concurrent.futures.ThreadPoolExecutor(1) as beside:
        order = beside.submit(call, [args.python, os.path.join(HERE, "order.py")], PLAIN, deadline.left())
        results["smoke"] = run_plan(args, env, deadline, plan if args.device == "cuda" else plan[:1])
        done = order.result()
    log(os.path.join(args.out, "bench.log"), "order", done)
    results["order"] = parsed(done)
    # Without PyTorch nothing is said of the order.
    ordered = args.device == "cpu" or done["code"] == 3 or results["order"].get("holds", False)
    return ordered and all(test["state"] == "passed" for test in results["smoke"])


def run_tests(args, env, deadline, results):
    plan = [test for test in test_plan() if re.search(args.filter, test[0])]
    if args.device == "cpu":
        # There is nothing to force.
        plan = [test for test in plan if not test[1]]
    if args.quick:
        plan = [test for test in plan if "f32" not in test[0] and not test[1]]
    results["tests"] = run_plan(args, env, deadline, plan)
    return all(test["state"] == "passed" for test in results["tests"])


def run_plan(args, env, deadline, plan):
    """Tests side by side, each in a process of its own."""
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

    jobs = TEST_JOBS if args.device == "cuda" else 1
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(one, plan))


def parsed(done):
    """The JSON object that a program printed, or why there is none."""
    try:
        value = json.loads(done["out"])
    except json.JSONDecodeError:
        last = (done["err"].strip().splitlines() or ["nothing was said"])[-1]
        return {"error": f"exit {done['code']}: {last[:400]}"}
    return {**value, "process_seconds": done["seconds"]}


def bench(args, env, deadline, label, command, extra=None, limit=BENCH_LIMIT, folder=None):
    """One JSON object of a program, or why there is none."""
    if deadline.left() < 5:
        return {"error": "not run: no time left"}
    done = call(command, env, min(limit, deadline.left()), extra, folder)
    log(os.path.join(args.out, "bench.log"), label, done)
    return parsed(done)


def lines_of(path):
    """What a program has appended to a file of JSON lines, and finished."""
    if not os.path.exists(path):
        return []
    lines = open(path).read().splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]


def fresh(args, name):
    """A file of the results, without what an earlier run left there."""
    path = os.path.join(args.out, name)
    if os.path.exists(path):
        os.remove(path)
    return path


def run_attention(args, env, deadline, results):
    tokens = {"cpu": "256"}.get(args.device, "4096,16384" if args.quick else TOKENS)
    runs = results["attention"] = []
    for turn in range(ROUNDS):
        variants = [("apb", "bf16", ""), ("peer", "bf16", ""), ("apb", "bf16", "mma")]
        for who, dtype, choice in variants if args.device == "cuda" else variants[:1]:
            lines = os.path.join(args.scratch, f"rows-{len(runs)}.jsonl")
            flags = ["--dtype", dtype, "--shapes", SHAPES, "--tokens", tokens, "--log", lines]
            if who == "apb":
                command, environment = [APB, "bench", "attention", "--json", "--no-burn", "--device", args.device], env
            else:
                command, environment = [args.python, os.path.join(HERE, "peer.py")], PLAIN
            extra = {"CUBECL_AUTOTUNE_LEVEL": args.autotune, **({"APB_TENSOR_CORE": choice} if choice else {})}
            value = bench(args, environment, deadline, f"attention {who} {dtype} {choice}", command + flags, extra)
            if "error" in value:
                value["rows"] = lines_of(lines)
            runs.append({"who": who, "dtype": dtype, "forced": choice, "round": turn, **value})
    return all("error" not in run for run in runs)


def run_prefill(args, env, deadline, results):
    lines = fresh(args, "prefill.jsonl")
    # What is tuned, and which kernel won, beside the results.
    with open(os.path.join(args.scratch, "cubecl.toml"), "w") as file:
        file.write(f'[autotune.logger]\nlevel = "minimal"\nfile = "{args.out}/tuning.log"\n')
    model, tokens, chunk, ranks = os.path.join(HERE, "llama-3.1-8b.json"), PREFILL_TOKENS, PREFILL_CHUNK, "8"
    if args.quick:
        tokens = "8192,8192"
    if args.device == "cpu":
        model, tokens, chunk, ranks = os.path.join(HERE, "fixtures", "models", SMALL), "256,512", "128", "2"
    command = [APB, "bench", "prefill", "--json", "--random-weights", "--model", model, "--device", args.device,
               "--dtype", "bf16", "--ranks", ranks, "--methods", "apb,full", "--tokens", tokens, "--chunk", chunk,
               "--runs", "1", "--decode", DECODE, "--log", lines]
    value = bench(args, env, deadline, "prefill", command, {"CUBECL_AUTOTUNE_LEVEL": args.autotune},
                  limit=deadline.left(), folder=args.scratch)
    # What was done before the time ran out counts.
    results["prefill"] = {"summary": value, "runs": lines_of(lines)}
    return "error" not in value


def run_peer(args, env, deadline, results):
    """The same prefill in PyTorch, and its products."""
    lines = fresh(args, "peer.jsonl")
    tokens = "8192" if args.quick else ",".join(dict.fromkeys(PREFILL_TOKENS.split(",")[1:]))
    command = [args.python, os.path.join(HERE, "peer_prefill.py"), "--model", os.path.join(HERE, "llama-3.1-8b.json"),
               "--tokens", tokens, "--chunk", PREFILL_CHUNK, "--log", lines]
    value = bench(args, PLAIN, deadline, "peer prefill", command, limit=deadline.left())
    results["peer"] = {"summary": value, "runs": lines_of(lines)}
    return "error" not in value


def run_profile(args, env, deadline, results):
    """What the attention kernel waits for, by Nsight Compute's counters, as text in profile.txt."""
    if not shutil.which("ncu"):
        results["profile"] = "no ncu here"
        return True
    text = ""
    for d, name in [(128, "wgmma"), (64, "wgmma")]:
        if deadline.left() < 10:
            break
        command = ["ncu", "--clock-control", "none", "-k", f"regex:{name}", "-c", "1",
                   *[flag for section in SECTIONS for flag in ["--section", section]], APB, "bench", "attention",
                   "--json", "--no-burn", "--device", "cuda", "--dtype", "bf16", "--shapes", f"32/8x{d}", "--tokens",
                   "16384", "--cases", "causal"]
        done = call(command, env, deadline.left(), {"CUBECL_AUTOTUNE_LEVEL": "minimal"})
        text += f"===== {name} d {d}: exit {done['code']}, {done['seconds']} s\n{done['out'][-60000:]}\n{done['err'][-4000:]}\n"
    with open(os.path.join(args.out, "profile.txt"), "w") as file:
        file.write(text)
    results["profile"] = "profile.txt"
    return True


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
    parser.add_argument("--only", default=",".join(STAGES), help="stages, comma-separated, in this order: " + ", ".join(STAGES))
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
                   "machine": machine(), "cuda": found, "seconds": args.seconds, "stages": {}}
        results["doctor"] = bench(args, env, deadline, "doctor", [APB, "doctor", "--json"])
        # Where Python and the models are says nothing of the device.
        checks = results["doctor"].get("checks", [])
        results["doctor"]["checks"] = [check for check in checks if check["name"] not in ["python3", "cache"]]
        passed = True
        for stage in stages:
            seconds = min(deadline.left() - 5, STAGES[stage])
            if args.device == "cpu" and stage in ["peer", "profile"]:
                continue
            started = time.monotonic()
            run = {"smoke": run_smoke, "prefill": run_prefill, "peer": run_peer, "attention": run_attention,
                   "profile": run_profile, "tests": run_tests}[stage]
            good = run(args, env, Deadline(seconds), results)
            results["stages"][stage] = {"passed": good, "seconds": round(time.monotonic() - started, 1)}
            print(f"{stage}: {'passed' if good else 'FAILED'}, {results['stages'][stage]['seconds']} s")
            passed &= good
            # After every stage: a machine may go before the next is done.
            with open(os.path.join(args.out, results_file(results)), "w") as file:
                file.write(json.dumps(results, indent=1).replace(HERE + os.sep, "") + "\n")
            if stage == "smoke" and not any(test["state"] == "passed" for test in results["smoke"]):
                print("gpu-check: no kernel of attention is right here; nothing else is run", file=sys.stderr)
                break
    text = tables.summary(results)
    with open(os.path.join(args.out, "summary.txt"), "w") as file:
        file.write(text)
    print(text)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
