"""Compiles the emitted kernels, holds their resources to a table, and runs them in a simulator.

usage: check.py FOLDER BINARY [--update] [--only NAME] [--case NAME]

FOLDER is what `emit-cuda emit` wrote, BINARY is emit-cuda. The simulator, ptxsim, is looked for in
$PTXSIM, or in ../shared/tools/ptxsim beside the repository; without it only resources are checked.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import cases
import fused
import simulate
from toolchain import Toolchain

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
RESOURCES = HERE / "resources.json"
# Beside rounding: sums of f32 in another order. Scores grow with the queries, and with them what rounding
# inputs of f32 shifts in the exponent; inputs of 16 bits have exact products.
SLACK = 1e-5
# Of the lse's magnitude, at least 1: f32 sums of exact products and a logarithm, a few 1e-7 each.
LSE_TOLERANCE = 1e-5


def table(rows):
    """Aligned columns, the first row being the head."""
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = (str(c).ljust(w) if i == 0 else str(c).rjust(w) for i, (c, w) in enumerate(zip(row, widths)))
        print("  ".join(cells).rstrip(), flush=True)


def architectures(kernel):
    """What a kernel is compiled for. CubeCL's runtime compiles for the very device, with its `a`
    features: on Hopper that is sm_90a for the mma kernels too."""
    return dict.fromkeys([kernel["architecture"], "sm_90a"])


def check_resources(facts, found, update):
    """Compares with the committed table; a line for each kernel that differs."""
    head = ["kernel", "arch", "threads", "shared", *next(iter(found.values()))]
    rows = [head]
    for kernel in facts:
        threads = kernel["block"][0] * kernel["block"][1]
        for architecture in architectures(kernel):
            resources = found[f"{kernel['name']} {architecture}"].values()
            rows.append([kernel["name"], architecture, threads, kernel["shared_bytes"], *resources])
    table(rows)
    if update:
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(found[name])}" for name in found)
        RESOURCES.write_text("{\n" + lines + "\n}\n")
        return []
    committed = json.loads(RESOURCES.read_text())
    differing = [name for name in found if found[name] != committed.get(name)]
    return [f"{name}: {found[name]}, committed: {committed.get(name)}" for name in differing]


def errors(got, expected, elements, heat):
    """Largest error, that of rounding alone, and their limit, over finite expectations."""
    slack = SLACK * (heat if elements.dtype == "f32" else 1)
    finite = np.isfinite(expected)
    if not finite.any():
        return 0.0, 0.0, slack
    rounding = np.abs(elements.round(expected[finite]) - expected[finite]).max()
    error = np.abs(got[finite] - expected[finite]).max()
    return error, rounding, 2 * rounding + slack


def judge(case, got, expected, elements):
    """A row of the table, and whether the case passed."""
    (out, lse), (expected_out, expected_lse) = got, expected
    error, rounding, limit = errors(out, expected_out, elements, case.heat)
    finite = np.isfinite(expected_lse)
    scale = np.maximum(1, np.abs(expected_lse[finite]))
    lse_error = (np.abs(lse[finite] - expected_lse[finite]) / scale).max(initial=0.0)
    # Comparisons with NaN are false: an error that is none fails.
    right = error <= limit and lse_error <= LSE_TOLERANCE
    blind = np.isneginf(expected_lse)
    right &= bool((lse[blind] == -np.inf).all() and (out[blind] == 0).all())
    # What is poisoned shows, row by row; what is not, does not.
    right &= bool((np.isfinite(out).all(-1) == np.isfinite(expected_out).all(-1)).all())
    right &= bool((np.isnan(lse) == np.isnan(expected_lse)).all())
    if case.poison:
        dirty = ~np.isfinite(expected_out).all(-1)
        right &= bool(dirty.any() and not dirty.all())
    return [f"{error:.1e}", f"{rounding:.1e}", f"{lse_error:.0e}"], right


def memory(report):
    """Shared-memory wavefronts and global sectors, as multiples of what the bytes alone need."""
    return [f"{report.ratio(space)[0]:.2f}" for space in ("shared", "global")]


def problems(kernel, elements, only):
    """Cases, their inputs and expectations, for a kernel."""
    head_dim = kernel["head_dim"]
    for case in cases.GENERATED + cases.POISONED:
        if only in case.name:
            inputs = cases.generate(case, elements, head_dim)
            yield case, inputs, cases.reference(case, *inputs)
    folder = REPOSITORY / "tests" / "fixtures" / "attention"
    suffix = "" if kernel["dtype"] == "f32" else f"_{kernel['dtype']}"
    for path in sorted(folder.glob(f"prefill_*_d{head_dim}_*b[0-9]*{suffix}.safetensors")):
        # Those of f32 have no suffix, and those where scores are large a tolerance of their own.
        if not suffix and not path.stem.rsplit("_b", 1)[1].isdigit():
            continue
        case, inputs, expected = cases.read_vectors(path, elements)
        if only in case.name:
            yield case, inputs, expected


def simulate_kernel(index):
    """The kernel of `Run.attention[index]` on every case: rows of the table, and whether all passed."""
    kernel = Run.attention[index]
    rows, passed = [], True
    elements = cases.Elements(kernel["dtype"])
    for case, inputs, expected in problems(kernel, elements, Run.only):
        # Lockstep hides missing barriers, the race check finds them: both, where time allows.
        for race in (True, False) if case.file else (True,):
            began = time.monotonic()
            label = f"{kernel['name']}, {case.name}"
            try:
                *got, report = simulate.attention(Run.kernels, kernel["name"], Run.binary, case, inputs, elements, race)
            except Run.ptxsim.PtxError as error:
                print(f"{label}: {error.kind}: {error}", file=sys.stderr, flush=True)
                passed = False
                continue
            cells, right = judge(case, got, expected, elements)
            passed &= right
            cells += [*memory(report), "none" if race else "-", f"{time.monotonic() - began:.1f}"]
            rows.append([label, *cells, "ok" if right else "WRONG"])
            if not right:
                print(rows[-1], file=sys.stderr, flush=True)
    return rows, passed


class Run:
    """What the forked workers share: parsed kernels cannot be sent to them, only inherited."""


def simulate_all(ptxsim, facts, sources, binary, only):
    """Every kernel on every case, each kernel in a process of its own; True where all passed."""
    Run.ptxsim, Run.binary, Run.only = ptxsim, binary, only
    Run.kernels = {f["name"]: simulate.Kernel(ptxsim, f, *sources[f["name"]]) for f in facts}
    Run.attention = [kernel for kernel in facts if kernel["rows"] > 0]
    rows = [["kernel, case", "out error", "rounding", "lse", "wavefronts", "sectors", "races", "s", ""]]
    passed = True
    with multiprocessing.get_context("fork").Pool() as pool:
        for simulated, right in pool.imap(simulate_kernel, range(len(Run.attention))):
            rows += simulated
            passed &= right
    table(rows)
    return passed


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("binary", type=Path)
    parser.add_argument("--update", action="store_true", help="rewrite the table of resources")
    parser.add_argument("--only", default="", help="kernels whose name contains this")
    parser.add_argument("--case", default="", help="cases whose name contains this")
    options = parser.parse_args()

    facts = json.loads((options.folder / "kernels.json").read_text())
    # A merge belongs to kernels of parts, and the others around attention to each other.
    facts = [f for f in facts if options.only in f["name"] or f["rows"] == 0]
    toolchain = Toolchain()
    sources, found = {}, {}
    work = [(kernel["name"], architecture) for kernel in facts for architecture in architectures(kernel)]

    def compiled(job):
        name, architecture = job
        source = (options.folder / f"{name}.cu").read_text()
        ptx = toolchain.ptx(source, architecture)
        return source, ptx, toolchain.resources(ptx, architecture)

    # NVRTC and the tools run outside of Python's lock.
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for (name, architecture), (source, ptx, resources) in zip(work, threads.map(compiled, work)):
            found[f"{name} {architecture}"] = resources
            sources.setdefault(name, (source, ptx))
    resources = check_resources(facts, found, options.update)
    print()

    passed = True
    simulator = Path(os.environ.get("PTXSIM", REPOSITORY.parent / "shared" / "tools" / "ptxsim"))
    if not simulator.is_dir():
        print(f"skipped: running the kernels; {simulator} does not exist (set PTXSIM)")
    else:
        sys.path.insert(0, str(simulator))
        import ptxsim

        passed &= simulate_all(ptxsim, facts, sources, options.binary, options.case)
        passed &= fused.check(Run.kernels, [cases.Elements(dtype) for dtype in ("bf16", "f16")])
    # Last, below hundreds of rows.
    for line in resources:
        print(f"resources of {line}")
    passed &= not resources
    print("all checks passed" if passed else "FAILED")
    sys.exit(not passed)


if __name__ == "__main__":
    main()
