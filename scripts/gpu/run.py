#!/usr/bin/env python3
"""Runs the bundle that `scripts/gpu-check` builds, on a machine with a CUDA device, without Rust.

The most telling stages first: does a kernel run, is it right and how fast (smoke), prefill and decoding of a
Llama-3.1-8B shape (prefill) and the same in PyTorch (peer); attention and products beside PyTorch's (attention), counters of
the attention kernel (profile); all tests (tests). Each has a budget, is cut when that is over, and leaves what it has.
Three calls fit a machine that runs a command for 8 minutes:

    --only smoke,prefill,peer        --only attention,profile        --only tests

Calls of one bundle with one DIR add to its results. DIR gets

    YYYY-MM-DD-<device>.json   everything, for benches/results    summary.txt      the tables, as printed last
    tests.log, bench.log       what the programs said             prefill*.jsonl   every prefill when it was done
    tuning-<stage>.log         which kernels CubeCL has chosen    profile.txt      counters of the attention kernel

APB_GPU_CHECK_HANG=STAGE starts, in place of that stage's programs, one that never ends: the stage must be cut.
SIGTERM and Ctrl-C cut the stage that runs, and no other begins.

Exit codes: 0 all passed, 1 a test or a bench failed or a stage was cut, 3 no CUDA here."""
import argparse
import concurrent.futures
import contextlib
import datetime
import glob
import itertools
import json
import math
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import cuda
import tables

# Of programs that are not ours: our library paths would shadow what PyTorch brings.
PLAIN = dict(os.environ)
HERE = os.path.dirname(os.path.abspath(__file__))
APB = os.path.join(HERE, "bin", "apb")
TESTS = os.path.join(HERE, "bin", "gpu-tests")
# Each stage, and the most seconds it may take.
STAGES = {"smoke": 60, "prefill": 240, "peer": 150, "attention": 330, "profile": 120, "tests": 450}
# What needs PyTorch or counters.
GPU_ONLY = ["peer", "profile"]
# A program is not started with less. Seconds.
LEAST = 1
# What `apb doctor` may take. Seconds.
DOCTOR_LIMIT = 20
# Processes that a signal does not reach, as one that waits in the driver, are left behind after so many seconds.
KILL_LIMIT = 2

# Kernels are compiled by the processor, each process for itself: tests run side by side. Seconds.
TEST_JOBS = 12
TEST_LIMIT = 150
# Attention of these head dimensions has two kernels; each is forced in turn.
FORCED = re.compile(r"attention::(attention|poisoned_keys)_d(64|128)_(bf16|f16)$")
# One bench of attention. Seconds.
BENCH_LIMIT = 120
# Rounds of apb and PyTorch in turns, and the variants of apb measured in each.
ROUNDS = 1
SHAPES = "32/8x128,32/8x64"
# The odd one: rows and keys that fill no tile.
TOKENS = "4096,16384,16385,65536"
SPEED_TOKENS = "16384"
# A short one first, to compile. Of 4,096 and 4,097 tokens one leaves the cache an odd capacity. With passes of 8,192 rows
# all tiles of the MLP are of one size.
FULL_TOKENS = "8192,32768,131072,4096,4097"
RANK_TOKENS = "32768,131072"
PEER_TOKENS = "4096,32768,131072"
CHUNK = "8192"
RANKS = 8
METHODS = "apb,star,ring"
# Tokens decoded after each prefill.
DECODE = "32"
# The share of its stage that the prefill of one rank may take at most: the rest is for one rank of several.
FULL_SHARE = 0.6
# The model of `--device cpu`.
SMALL = "llama-gqa"
# What a log keeps of one program's output, and of everything, in characters.
LOG_CAP = 200_000
LOG_WHOLE = 4_000_000
# Nsight Compute's sections: rates against the peak, what warps wait for, and the launch.
SECTIONS = ["SpeedOfLight", "ComputeWorkloadAnalysis", "MemoryWorkloadAnalysis", "WarpStateStats", "SchedulerStats",
            "InstructionStats", "LaunchStats", "Occupancy"]
# What nvidia-smi is asked every second, and the names in the results.
CLOCKS = {"utilization.gpu": "percent_busy", "clocks.sm": "sm_mhz", "clocks.mem": "memory_mhz", "power.draw": "watts",
          "temperature.gpu": "celsius"}
# Seconds of a stage that ptxas may use of what is left.
PTXAS_LIMIT = 40

# All that a program starts inherits this, whatever session it is in.
MARK = "APB_GPU_CHECK_CALL"
CALLS = itertools.count()
# One that never ends, nor does what it has started in a session of its own.
HANGING = """import signal, subprocess, sys
subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
signal.pause()"""


class Stage:
    """Until when it may run, and whether it was cut: something was ended or left out for want of time."""

    def __init__(self, name, seconds):
        self.name, self.budget = name, round(seconds, 1)
        self.end = time.monotonic() + seconds
        self.cut = False
        self.hangs = os.environ.get("APB_GPU_CHECK_HANG") == name

    def left(self):
        return self.end - time.monotonic()

    def over(self):
        """Whether nothing may be started any more, which cuts the stage."""
        self.cut |= self.left() < LEAST
        return self.left() < LEAST


def end_marked(mark):
    """Ends the processes whose mark begins so."""
    wanted, limit = f"{MARK}={mark}".encode(), time.monotonic() + KILL_LIMIT
    while time.monotonic() < limit:
        found = False
        for path in glob.glob("/proc/[0-9]*/environ"):
            with contextlib.suppress(OSError):
                with open(path, "rb") as file:
                    marked = wanted in file.read()
                if marked:
                    os.kill(int(path.split("/")[2]), signal.SIGKILL)
                    found = True
        if not found:
            return
        time.sleep(0.01)


def call(stage, command, env, extra=None, limit=math.inf, folder=None):
    """Output, exit code and seconds; a command that runs past its limit is ended, with all that it has started."""
    started = time.monotonic()
    mark = f"{os.getpid()}-{next(CALLS)}."
    if stage.hangs:
        command = [sys.executable, "-c", HANGING]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            process = subprocess.Popen(command, env={**env, **(extra or {}), MARK: mark}, stdin=subprocess.DEVNULL,
                                       stdout=out, stderr=err, cwd=folder, start_new_session=True)
        except OSError as error:
            return {"code": "not started", "out": "", "err": str(error), "seconds": 0}
        threads = ""
        try:
            code = process.wait(max(min(limit, stage.left()), 0))
        except subprocess.TimeoutExpired:
            code, threads = "timeout", waiting(process.pid)
        # Also what a program that has ended left behind.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        end_marked(mark)
        try:
            process.wait(KILL_LIMIT)
        except subprocess.TimeoutExpired:
            threads += "the process does not end\n"
        stage.cut |= code != 0 and stage.left() <= 0
        return {"code": code, "out": tail(out), "err": tail(err) + threads,
                "seconds": round(time.monotonic() - started, 2)}


def tail(file):
    file.seek(max(file.seek(0, os.SEEK_END) - LOG_WHOLE, 0))
    return file.read().decode(errors="replace")


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
    full = os.path.exists(path) and os.path.getsize(path) > LOG_WHOLE
    cap = 2000 if full else LOG_CAP
    with open(path, "a") as file:
        file.write(f"===== {title}: exit {done['code']}, {done['seconds']} s\n{done['out'][-cap:]}\n{done['err'][-cap:]}\n")


class Clocks(threading.Thread):
    """Asks nvidia-smi for clocks and power every second, and changes nothing."""

    def __init__(self):
        super().__init__(daemon=True)
        self.rows, self.done = [], threading.Event()
        self.start()

    def run(self):
        query = ["nvidia-smi", "-i", "0", "--query-gpu=" + ",".join(CLOCKS), "--format=csv,noheader,nounits"]
        while not self.done.wait(1):
            try:
                said = subprocess.run(query, capture_output=True, text=True, timeout=2).stdout.split(",")
            except (OSError, subprocess.TimeoutExpired):
                return
            if len(said) == len(CLOCKS):
                # What a device does not tell is [N/A].
                self.rows.append([float(field) if re.fullmatch(r"\s*[\d.]+\s*", field) else None for field in said])

    def summary(self):
        """Least, median and most of each, of the seconds in which the device worked; none without a sample."""
        self.done.set()
        self.join(3)
        rows = list(self.rows)
        busy = [row for row in rows if row[0]]
        if not rows:
            return None
        found = {"samples": len(rows), "busy": len(busy)}
        for name, values in zip(CLOCKS.values(), zip(*(busy or rows))):
            told = [value for value in values if value is not None]
            if told:
                found[name] = [min(told), statistics.median(told), max(told)]
        return found


def objects(text):
    """The lines that are JSON objects and finished."""
    found = []
    for line in text.splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            value = json.loads(line)
            found += [value] if isinstance(value, dict) else []
    return found


def lines_of(path):
    """What a program has appended to a file of JSON lines, and finished."""
    return objects(open(path).read()) if os.path.exists(path) else []


def parsed(done):
    """The last JSON object that a program printed, those before it as its rows where it has none; or why it failed, and what
    it had printed."""
    found = objects(done["out"])
    if found and done["code"] == 0:
        return {"rows": found[:-1], **found[-1], "process_seconds": done["seconds"]}
    said = [line for line in done["err"].split("\nthreads when", 1)[0].splitlines() if line.strip()]
    last = (said or ["nothing was said"])[-1]
    return {"error": f"exit {done['code']} after {done['seconds']} s: {last[:400]}", "rows": found}


def bench(args, stage, label, command, env, extra=None, limit=math.inf, folder=None):
    """What a program printed, or why it did not."""
    if stage.over():
        return {"error": "not run: no time left", "rows": []}
    done = call(stage, command, env, extra, limit, folder)
    log(os.path.join(args.out, "bench.log"), label, done)
    print(f"  {label}: exit {done['code']}, {done['seconds']} s")
    return parsed(done)


def fresh(args, name):
    """A file of the results, without what an earlier run left there."""
    path = os.path.join(args.out, name)
    if os.path.exists(path):
        os.remove(path)
    return path


class Watched:
    """What programs of ours are told to write beside their results: what is tuned, and the PTX of their kernels."""

    def __init__(self, args, stage):
        self.args, self.stage = args, stage
        self.folder = os.path.join(args.scratch, stage.name)
        self.ptx = os.path.join(self.folder, "ptx")
        os.makedirs(self.ptx)
        self.tuning = fresh(args, f"tuning-{stage.name}.log")
        # CubeCL looks for it in the working folder.
        with open(os.path.join(self.folder, "cubecl.toml"), "w") as file:
            file.write(f'[autotune.logger]\nlevel = "minimal"\nfile = {json.dumps(self.tuning)}\n')
        self.extra = {"CUBECL_AUTOTUNE_LEVEL": args.autotune, "CUBECL_CUDA_DUMP_PTX": self.ptx}

    def gather(self, results):
        """Which kernels were chosen, and registers and spills of all by the machine's own ptxas."""
        if os.path.exists(self.tuning):
            text = open(self.tuning, errors="replace").read()[:LOG_CAP]
            with open(self.tuning, "w") as file:
                file.write(text)
            chosen = [line[:300] for line in text.splitlines() if "Fastest result" in line]
            results.setdefault("tuning", {})[self.stage.name] = chosen
        files = sorted(glob.glob(os.path.join(self.ptx, "*.ptx")))
        if not files:
            return
        found = cuda.tool("ptxas")
        if not found:
            results.setdefault("ptxas", {})[self.stage.name] = {"error": "no ptxas here", "left_out": len(files)}
            return
        ptxas = shutil.copy(found, self.folder)
        os.chmod(ptxas, 0o755)
        spare = Stage("ptxas", min(max(self.stage.left(), 0), PTXAS_LIMIT))

        def one(path):
            text = open(path, errors="replace").read()
            entry, target = re.search(r"\.entry\s+(\w+)", text), re.search(r"^\.target\s+(\w+)", text, re.M)
            if spare.over() or not entry or not target:
                return None
            output = path[: -len("ptx")] + "cubin"
            done = call(spare, [ptxas, "-v", f"-arch={target[1]}", path, "-o", output], PLAIN)
            said = done["out"] + done["err"]
            count = lambda pattern: int(match[1]) if (match := re.search(pattern, said)) else None
            # It says where it serialises wgmma, which undoes their overlap.
            warnings = [line[:200] for line in said.splitlines() if re.search("warning|error|fatal|serializ", line)]
            return {"kernel": entry[1], "architecture": target[1], "registers": count(r"Used (\d+) registers"),
                    "spill_stores": count(r"(\d+) bytes spill stores"), "spill_loads": count(r"(\d+) bytes spill loads"),
                    "shared_bytes": count(r"(\d+) bytes smem"), "warnings": warnings[:3]}

        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            kernels = [row for row in pool.map(one, files) if row]
        results.setdefault("ptxas", {})[self.stage.name] = {"kernels": kernels, "left_out": len(files) - len(kernels)}


def test_plan(args, env, stage):
    """Each test by name, with what the environment is to force."""
    listed = call(stage, [TESTS, "--list", "--format", "terse"], env)
    if listed["code"] != 0:
        log(os.path.join(args.out, "tests.log"), "list", listed)
    names = [line[: -len(": test")] for line in listed["out"].splitlines() if line.endswith(": test")]
    plan = [(name, "") for name in names]
    plan += [(name, choice) for name in names if FORCED.search(name) for choice in ["mma", "wgmma"]]
    # Whole models tune dozens of matrix products and start first; those in f32 say least.
    return sorted(plan, key=lambda test: ("trace" not in test[0], "f32" in test[0]))


def run_plan(args, env, stage, plan):
    """Tests side by side, each in a process of its own."""
    extra = {"APB_TEST_DEVICE": args.device, "APB_TEST_BIN": APB, "CUBECL_AUTOTUNE_LEVEL": "minimal",
             "APB_TEST_FIXTURES": os.path.join(HERE, "fixtures"), "RUST_BACKTRACE": "0"}
    if args.device == "cuda":
        extra["APB_REQUIRE_CUDA"] = "1"

    def one(test):
        name, choice = test
        if stage.over():
            return {"test": name, "forced": choice, "state": "not run", "results": [], "seconds": 0}
        forced = {"APB_TENSOR_CORE": choice} if choice else {}
        limit = math.inf if "trace" in name else TEST_LIMIT
        done = call(stage, [TESTS, "--exact", name, "--nocapture"], env, {**extra, **forced}, limit)
        log(os.path.join(args.out, "tests.log"), f"{name} {choice}", done)
        state = {0: "passed", "timeout": "timeout"}.get(done["code"], "failed")
        if "1 passed" not in done["out"] and state == "passed":
            state = "failed"
        of = lambda head: [line[len(head):] for line in done["out"].splitlines() if line.startswith(head)]
        return {"test": name, "forced": choice, "state": state, "seconds": done["seconds"],
                "results": objects("\n".join(of("RESULT "))), "failures": of("FAILED ")[:20]}

    jobs = TEST_JOBS if args.device == "cuda" else 1
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(one, plan))


def run_smoke(args, env, stage, results):
    """Whether the kernels of attention run and are right, whether the driver orders streams of a context; one rate."""
    plan = [(f"attention::attention_d{d}_bf16", choice) for d in [128, 64] for choice in ["wgmma", "mma", "none"]]
    cpu = args.device == "cpu"
    with concurrent.futures.ThreadPoolExecutor(1) as beside:
        order = [args.python, os.path.join(HERE, "order.py")]
        order = None if cpu else beside.submit(call, stage, order, PLAIN)
        results["smoke"] = run_plan(args, env, stage, plan[:1] if cpu else plan)
        done = order and order.result()
    ordered = True
    if done:
        log(os.path.join(args.out, "bench.log"), "order", done)
        results["order"] = parsed(done)
        # Without PyTorch nothing is said of the order.
        ordered = done["code"] == 3 or results["order"].get("holds", False)
    command = [APB, "bench", "attention", "--json", "--no-burn", "--device", args.device, "--dtype", "bf16", "--shapes",
               "32/8x128", "--cases", "causal", "--tokens", "256" if cpu else SPEED_TOKENS]
    results["speed"] = bench(args, stage, "speed", command, env, {"CUBECL_AUTOTUNE_LEVEL": args.autotune})
    return ordered and "error" not in results["speed"] and all(test["state"] == "passed" for test in results["smoke"])


def run_tests(args, env, stage, results):
    plan = [test for test in test_plan(args, env, stage) if re.search(args.filter, test[0])]
    if args.device == "cpu":
        # There is nothing to force.
        plan = [test for test in plan if not test[1]]
    if args.quick:
        plan = [test for test in plan if "f32" not in test[0] and not test[1]]
    results["tests"] = run_plan(args, env, stage, plan)
    return bool(plan) and all(test["state"] == "passed" for test in results["tests"])


def run_prefill(args, env, stage, results):
    """Full attention with decoding, then the last of several ranks by itself: it has the most to do."""
    watched = Watched(args, stage)
    model, full, rank, chunk, ranks = os.path.join(HERE, "llama-3.1-8b.json"), FULL_TOKENS, RANK_TOKENS, CHUNK, RANKS
    if args.quick:
        full, rank = "8192,4097", "8192"
    if args.device == "cpu":
        model = os.path.join(HERE, "fixtures", "models", SMALL)
        full, rank, chunk, ranks = "256,512,257", "256,512", "128", 2
    config = os.path.join(model, "config.json") if os.path.isdir(model) else model
    common = [APB, "bench", "prefill", "--json", "--random-weights", "--model", model, "--device", args.device, "--dtype",
              "bf16", "--chunk", chunk, "--runs", "1"]
    parts = {"full": ["--methods", "full", "--tokens", full, "--decode", DECODE],
             "rank": ["--methods", METHODS, "--tokens", rank, "--decode", "0", "--ranks", str(ranks), "--only-rank",
                      str(ranks - 1), "--warm-up", "1"]}
    found = results["prefill"] = {"shape": json.load(open(config)), "summaries": {}, "runs": []}
    for part, flags in parts.items():
        lines = fresh(args, "prefill.jsonl" if part == "full" else "prefill-rank.jsonl")
        limit = stage.left() * FULL_SHARE if part == "full" else math.inf
        value = bench(args, stage, f"prefill {part}", common + flags + ["--log", lines], env, watched.extra, limit,
                      watched.folder)
        found["summaries"][part] = value
        # What was done before the time ran out counts.
        found["runs"] += [{**run, "only_rank": ranks - 1 if part == "rank" else None} for run in lines_of(lines)]
    watched.gather(results)
    return all("error" not in value for value in found["summaries"].values())


def run_peer(args, env, stage, results):
    """The same prefill in PyTorch."""
    command = [args.python, os.path.join(HERE, "peer_prefill.py"), "--model", os.path.join(HERE, "llama-3.1-8b.json"),
               "--tokens", "4096" if args.quick else PEER_TOKENS, "--chunk", CHUNK]
    value = bench(args, stage, "peer prefill", command, PLAIN)
    results["peer"] = {"summary": value, "runs": value.pop("rows", [])}
    return "error" not in value


def run_attention(args, env, stage, results):
    """Attention, its products and those of the model's shape."""
    watched = Watched(args, stage)
    tokens = {"cpu": "256,257"}.get(args.device, "4096,4097" if args.quick else TOKENS)
    runs = results["attention"] = []
    variants = [("apb", ""), ("peer", ""), ("apb", "mma")]
    for turn in range(ROUNDS):
        for who, choice in variants if args.device == "cuda" else variants[:1]:
            flags = ["--dtype", "bf16", "--shapes", SHAPES, "--tokens", tokens]
            lines = os.path.join(args.scratch, f"rows-{len(runs)}.jsonl")
            if who == "apb":
                command = [APB, "bench", "attention", "--json", "--no-burn", "--device", args.device, "--log", lines]
                extra = {**watched.extra, **({"APB_TENSOR_CORE": choice} if choice else {})}
                value = bench(args, stage, f"attention {who} {choice}".strip(), command + flags, env, extra, BENCH_LIMIT,
                              watched.folder)
            else:
                command = [args.python, os.path.join(HERE, "peer.py"), "--model", os.path.join(HERE, "llama-3.1-8b.json"),
                           "--chunk", CHUNK]
                value = bench(args, stage, "attention peer", command + flags, PLAIN, limit=BENCH_LIMIT)
            if "error" in value:
                value["rows"] = value.get("rows") or lines_of(lines)
            runs.append({"who": who, "forced": choice, "round": turn, **value})
    watched.gather(results)
    return all("error" not in run for run in runs)


def run_profile(args, env, stage, results):
    """What the attention kernel waits for, by Nsight Compute's counters, as text in profile.txt."""
    if not shutil.which("ncu"):
        results["profile"] = "no ncu here"
        return True
    path = fresh(args, "profile.txt")
    results["profile"] = {}
    for d in [128, 64]:
        if stage.over():
            break
        command = ["ncu", "--clock-control", "none", "-k", "regex:wgmma", "-c", "1",
                   *[flag for section in SECTIONS for flag in ["--section", section]], APB, "bench", "attention",
                   "--json", "--no-burn", "--device", "cuda", "--dtype", "bf16", "--shapes", f"32/8x{d}", "--tokens",
                   SPEED_TOKENS, "--cases", "causal"]
        done = call(stage, command, env, {"CUBECL_AUTOTUNE_LEVEL": "minimal"})
        log(path, f"wgmma d {d}", done)
        # Counters are not for every user.
        results["profile"][f"d {d}"] = f"exit {done['code']}, {done['seconds']} s, profile.txt"
    return True


RUN = {"smoke": run_smoke, "prefill": run_prefill, "peer": run_peer, "attention": run_attention, "profile": run_profile,
       "tests": run_tests}


def run_stage(args, env, stage, results):
    """Runs a stage, whatever comes of it, and notes how it went."""
    started, clocks = time.monotonic(), Clocks()
    print(f"{stage.name}: at most {stage.budget:.0f} s")
    state = {}
    try:
        good = RUN[stage.name](args, env, stage, results)
    except Exception as error:
        good, state = False, {"error": f"{type(error).__name__}: {error}"}
    state.update(passed=good and not stage.cut, cut=stage.cut, seconds=round(time.monotonic() - started, 1),
                 budget=stage.budget, clocks=clocks.summary())
    results["stages"][stage.name] = state
    print(f"{stage.name}: {tables.word(state)}, {state['seconds']} s {state.get('error', '')}")
    return state["passed"]


def machine():
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.sm,clocks.mem", "--format=csv,noheader"]
    try:
        gpu = subprocess.run(query, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        gpu = ""
    return {"gpu": gpu, "cpus": os.cpu_count(), "system": platform.platform()}


def results_file(args, results):
    gpu = results["machine"]["gpu"] if args.device == "cuda" else ""
    device = (gpu or args.device).split(",")[0]
    name = re.sub("[^a-z0-9]+", "-", device.lower()).strip("-")
    return os.path.join(args.out, f"{results['date']}-{name}.json")


def with_earlier(path, results):
    """Adds what an earlier call of the same bundle has left."""
    try:
        earlier = json.load(open(path))
    except (OSError, json.JSONDecodeError):
        return results
    same = earlier.get("version") == results["version"]
    return {**earlier, **results, "stages": earlier["stages"]} if same else results


def write(args, path, results):
    summary = tables.summary(results)
    everything = json.dumps(results, indent=1).replace(HERE + os.sep, "") + "\n"
    for name, text in [(path, everything), (os.path.join(args.out, "summary.txt"), summary)]:
        with open(name + ".part", "w") as file:
            file.write(text)
        os.replace(name + ".part", name)
    return summary


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, metavar="DIR", help="where results and logs go")
    parser.add_argument("--only", default=",".join(STAGES), metavar="STAGE,..",
                        help="in this order; there are, with seconds: " + ", ".join(f"{n} {s}" for n, s in STAGES.items()))
    parser.add_argument("--quick", action="store_true", help="fewer tests and shorter sequences")
    parser.add_argument("--seconds", type=float, help="for all stages, in proportion to theirs [default: their sum]")
    parser.add_argument("--filter", default="", metavar="REGEX", help="only tests whose name matches")
    parser.add_argument("--autotune", default="minimal", help="how many kernels matrix products are tuned over")
    parser.add_argument("--python", default="python3", help="the Python that has PyTorch")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"],
                        help="cpu: proves the checks themselves, without " + " and ".join(GPU_ONLY))
    args = parser.parse_args()
    args.out = os.path.abspath(args.out)
    stages = list(dict.fromkeys(args.only.split(",")))
    if unknown := set([*stages, os.environ.get("APB_GPU_CHECK_HANG", stages[0])]) - set(STAGES):
        parser.error(f"no stage {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
    if args.device == "cpu":
        stages = [stage for stage in stages if stage not in GPU_ONLY]
    os.makedirs(args.out, exist_ok=True)

    whole = Stage("", args.seconds or sum(STAGES[stage] for stage in stages))
    running = [whole]

    def cut(*_):
        for one in running:
            one.end, one.cut = -math.inf, True
        end_marked(f"{os.getpid()}-")

    for number in [signal.SIGTERM, signal.SIGINT]:
        signal.signal(number, cut)
    with tempfile.TemporaryDirectory() as args.scratch:
        env, found, missing = cuda.environment(args.scratch)
        print("\n".join(found))
        if missing and args.device == "cuda":
            print("gpu-check: cannot run here\n  " + "\n  ".join(missing), file=sys.stderr)
            return 3
        version = open(os.path.join(HERE, "version.txt")).read().strip()
        results = {"version": version, "date": datetime.date.today().isoformat(), "device": args.device,
                   "machine": machine(), "cuda": found, "stages": {}}
        doctor = Stage("doctor", min(DOCTOR_LIMIT, whole.left()))
        results["doctor"] = bench(args, doctor, "doctor", [APB, "doctor", "--json"], env)
        # Where Python and the models are says nothing of the device.
        checks = results["doctor"].get("checks", [])
        results["doctor"]["checks"] = [check for check in checks if check["name"] not in ["python3", "cache"]]
        path = results_file(args, results)
        results = with_earlier(path, results)
        text = write(args, path, results)
        passed = True
        for place, name in enumerate(stages):
            if whole.cut:
                passed = False
                break
            # What earlier ones have left is for those that come.
            share = STAGES[name] / sum(STAGES[stage] for stage in stages[place:])
            stage = Stage(name, max(min(STAGES[name], whole.left() * share), 0))
            running[1:] = [stage]
            passed &= run_stage(args, env, stage, results)
            # After every stage: a machine may go before the next is done.
            text = write(args, path, results)
            if name == "smoke" and not any(test["state"] == "passed" for test in results.get("smoke", [])):
                print("gpu-check: no kernel of attention is right here; nothing else is run", file=sys.stderr)
                break
    print(text)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
