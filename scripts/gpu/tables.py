"""The tables at the end of a run, from what it measured; `tables.py FILE..` prints them again, several calls as one."""
import json
import re
import statistics
import sys

NUMBER = re.compile(r"[-+\d.,/ ]*")


def digits(value):
    """Three digits, more before the point; a dash for none."""
    if value is None:
        return "-"
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3}f}"


def table(title, head, rows):
    """A title and columns as wide as what is in them, texts to the left and numbers to the right; nothing without rows."""
    if not rows:
        return []
    columns = list(zip(head, *rows))
    width = [max(map(len, column)) for column in columns]
    right = [all(NUMBER.fullmatch(cell) for cell in column[1:]) for column in columns]
    line = lambda cells: "  " + "  ".join(cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(cells, width, right))
    return ["", title] + [line(cells).rstrip() for cells in [head, ["-" * w for w in width], *rows]]


def word(state):
    return "passed" if state["passed"] else "CUT" if state.get("cut") else "FAILED"


def spread(clocks, name):
    return " / ".join(f"{value:.0f}" for value in clocks[name]) if name in (clocks or {}) else "-"


def stages(results):
    rows = []
    for stage, state in results["stages"].items():
        clocks = state.get("clocks")
        rows.append([stage, word(state), f"{state['seconds']:.1f}", digits(state.get("budget")), spread(clocks, "sm_mhz"),
                     spread(clocks, "watts"), spread(clocks, "celsius")])
    lines = table("stages; clocks: least / median / most of the seconds in which the device worked",
                  ["stage", "state", "took, s", "may take, s", "SM clock, MHz", "power, W", "temperature, C"], rows)
    errors = [(stage, state["error"]) for stage, state in results["stages"].items() if "error" in state]
    return lines + [f"  {stage}: {error}" for stage, error in errors]


def tests(results, stage):
    rows = results.get(stage, [])
    if not rows:
        return []
    count = {}
    for row in rows:
        count[row["state"]] = count.get(row["state"], 0) + 1
    shown = []
    for row in rows:
        kernels = [k for result in row["results"] for k in result.get("kernels", [])]
        worst = [result["worst_out_of_allowed"] for result in row["results"] if "worst_out_of_allowed" in result]
        if row["state"] != "passed" or kernels or stage == "smoke":
            shown.append([row["test"], row["forced"] or "-", row["state"], f"{row['seconds']:.1f}",
                          digits(worst[0] if worst else None), " ".join(kernels) or "-"])
    title = f"{stage}: " + ", ".join(f"{n} {state}" for state, n in sorted(count.items()))
    title += "; below: what did not pass, and which kernels computed" if stage == "tests" else ""
    lines = table(title, ["test", "forced", "state", "took, s", "error / allowed", "kernels"], shown) or ["", title]
    return lines + [f"  {row['test']}: {failure[:160]}" for row in rows for failure in row.get("failures", [])[:3]]


def speed(results):
    found = results.get("speed")
    if not found:
        return []
    if "error" in found:
        return [f"  causal attention: {found['error']}"]
    row = found["rows"][0]
    return [f"  causal attention, {row['heads']}/{row['kv_heads']}x{row['head_dim']}, {row['tokens']} tokens: "
            f"{digits(row['seconds'] * 1e3)} ms, {digits(row['gflops'] / 1e3)} TFLOP/s; a product of matrices "
            f"{digits(found['gemm_gflops'] / 1e3)} TFLOP/s"]


def order(results):
    found = results.get("order")
    if not found:
        return []
    if "error" in found:
        return [f"  events of a context: {found['error']}"]
    return [f"  events of a context: order {'holds' if found['holds'] else 'DOES NOT HOLD'}, "
            f"{found['microseconds']:.1f} us there and back, driver {found['driver']}"]


def mlp_tflops(run, shape):
    """Operations a second of the MLPs' part; the last layer's computes no row of the document."""
    seconds = run["parts"].get("mlp")
    if not shape or not seconds or run["method"] != "full":
        return None
    layers = shape["num_hidden_layers"] - 1
    return 6 * shape["hidden_size"] * shape["intermediate_size"] * run["tokens"] * layers / seconds / 1e12


def prefill(results):
    found = results.get("prefill", {})
    runs = found.get("runs", [])
    # Older results have one.
    summaries = found.get("summaries") or {"prefill": found.get("summary", {})}
    errors = [f"  prefill {part}: {value['error']}" for part, value in summaries.items() if "error" in value]
    # A warm-up that has a later run of the same kind is not shown.
    counted = {(run["method"], run["tokens"]) for run in runs if not run.get("warm_up")}
    runs = [run for run in runs if not run.get("warm_up") or (run["method"], run["tokens"]) not in counted]
    full = {run["tokens"]: run["prefill_seconds"] for run in runs if run["method"] == "full"}
    parts = list(dict.fromkeys(part for run in runs for part in run["parts"]))
    rows = []
    for run in runs:
        rank = run.get("only_rank")
        seconds = run["critical_seconds"] if rank is not None else run["prefill_seconds"]
        who = "-" if run["ranks"] == 1 else f"all {run['ranks']}" if rank is None else f"{rank} of {run['ranks']}"
        faster = full.get(run["tokens"]) if rank is not None else None
        rows.append([str(run["tokens"]), run["method"] + (" (warm-up)" if run.get("warm_up") else ""), who, digits(seconds),
                     digits(run["tokens"] / seconds), digits(faster and faster / seconds),
                     *[digits(run["parts"].get(part, 0)) for part in parts], digits(mlp_tflops(run, found.get("shape"))),
                     digits((run["peak_bytes"] or 0) / 2**30), digits(run["decode_tokens_per_second"])])
    return table("prefill, random weights; one rank alone with its own anchor, without its exchange, where a rank is named",
                 ["tokens", "method", "rank", "prefill, s", "tok/s", "full / it", *[f"{part}, s" for part in parts],
                  "MLP, TFLOP/s", "peak, GiB", "decoding, tok/s"], rows) + errors


def peer(results):
    found = results.get("peer")
    if not found:
        return []
    runs = results.get("prefill", {}).get("runs", [])
    ours = {run["tokens"]: run for run in runs if run["method"] == "full" and not run.get("warm_up")}
    rows = []
    for run in found["runs"]:
        name = run["backend"].replace("_ATTENTION", "").lower()
        seconds, rate, our = run.get("prefill_seconds"), run.get("decode_tokens_per_second"), ours.get(run["tokens"], {})
        our_seconds, our_rate = our.get("prefill_seconds"), our.get("decode_tokens_per_second")
        rows.append([str(run["tokens"]), name, digits(seconds), digits(our_seconds),
                     digits(seconds and our_seconds and seconds / our_seconds), digits(rate), digits(our_rate),
                     digits(rate and our_rate and our_rate / rate), run.get("refused", "-")])
    errors = [f"  PyTorch: {found['summary']['error']}"] if "error" in found["summary"] else []
    old = found["summary"].get("product_tflops", {})
    errors += ["  products, TFLOP/s: " + ", ".join(f"{name} {rate:.0f}" for name, rate in old.items())] if old else []
    return table("the same in PyTorch, with all tokens on one device; faster: apb's rate over PyTorch's",
                 ["tokens", "attention", "PyTorch, s", "apb, s", "faster", "PyTorch decoding, tok/s", "apb decoding, tok/s",
                  "faster", "refused"], rows) + errors


def products(results):
    runs = results.get("attention", [])
    peers = [row for run in runs if run["who"] == "peer" for row in run.get("rows", [])]
    rows = [[row["product"], str(row["rows"]), str(row["in"]), str(row["out"]), digits(row["seconds"] * 1e3),
             digits(row["gflops"] / 1e3), digits(row["gigabytes_per_second"])] for row in peers if "product" in row]
    lines = table("products of the model's linear layers by cuBLAS (PyTorch)",
                  ["layer", "rows", "in", "out", "ms", "TFLOP/s", "weights, GB/s"], rows)
    rates = []
    for who in ["apb", "peer"]:
        # What was cut has said it in a line of its own.
        said = [run if "gemm_gflops" in run else row for run in runs if run["who"] == who
                for row in ([run] if "gemm_gflops" in run else run.get("rows", [])) if "gemm_gflops" in row]
        name = {"apb": "apb", "peer": "PyTorch"}[who]
        if said:
            median = lambda key: digits(statistics.median(row[key] for row in said) / 1e3)
            rates.append([name, median("gemm_gflops"), median("memory_gigabytes_per_second")])
    return lines + table("rates that others are compared with",
                         ["program", "product of large squares, TFLOP/s", "memory, TB/s"], rates)


def attention(results):
    runs = results.get("attention", [])
    errors = [f"  {run['who']} {run['forced']}: {run['error']}" for run in runs if "error" in run]
    rates, seconds, gemm = {}, {}, []
    for run in runs:
        gemm += [row["gemm_gflops"] / 1e3 for row in [run, *run.get("rows", [])] if run["who"] == "peer" and "gemm_gflops" in row]
        for row in run.get("rows", []):
            if "gflops" not in row or "case" not in row:
                continue
            who = row.get("backend", "apb " + (run["forced"] or "best")).replace("_ATTENTION", "").lower()
            key = f"{row['heads']}/{row['kv_heads']}x{row['head_dim']}", row["case"], row["tokens"]
            rates.setdefault(key, {}).setdefault(who, []).append(row["gflops"] / 1e3)
            seconds.setdefault(key, {}).setdefault(who, []).append(row["seconds"])
    names = sorted({who for row in rates.values() for who in row})
    rows = []
    for key, row in rates.items():
        shape, case, tokens = key
        median = {who: statistics.median(values) for who, values in row.items()}
        ours = median.get("apb best")
        share = lambda other: digits(ours / other if ours and other else None)
        best = seconds[key].get("apb best")
        rows.append([shape, case, str(tokens), digits(best and statistics.median(best) * 1e3),
                     *[digits(median.get(name)) for name in names], share(median.get("flash")), share(median.get("cudnn")),
                     share(statistics.median(gemm) if gemm else None)])
    return table("attention, TFLOP/s per counted operation, bf16, medians of the rounds; apb best beside flash, cuDNN and a product",
                 ["heads", "case", "tokens", "apb best, ms", *[f"{name}, TFLOP/s" for name in names], "of flash", "of cudnn",
                  "of product"], rows) + errors


def ptxas(results):
    lines = []
    for stage, found in results.get("ptxas", {}).items():
        kernels = found.get("kernels", [])
        told = [row for row in kernels if "mma" in row["kernel"] or row["spill_stores"] or row["warnings"]]
        number = lambda value: "-" if value is None else str(value)
        rows = [[row["kernel"], row["architecture"], *[number(row[key]) for key in ["registers", "spill_stores", "spill_loads"]],
                 number(row["shared_bytes"]), "; ".join(row["warnings"]) or "-"] for row in told]
        title = f"kernels of {stage} by ptxas: {len(kernels)} compiled, {found['left_out']} left out"
        title += f" ({found['error']})" if "error" in found else ""
        lines += table(title + "; below: tensor cores, spills, warnings",
                       ["kernel", "for", "registers", "spill stores, B", "spill loads, B", "static shared, B", "warnings"],
                       rows) or ["", title]
    return lines


def tuning(results):
    found = [(stage, line) for stage, lines in results.get("tuning", {}).items() for line in lines]
    return ["", f"chosen by tuning, {len(found)}; all in tuning-<stage>.log"] * bool(found) + [
        f"  {stage}: {line[:150]}" for stage, line in found[:20]]


def summary(results):
    lines = [f"{results['version']}, {results['date']}, {results['machine']['gpu'] or results['device']}, "
             f"{results['machine']['cpus']} CPUs"]
    for part in [stages(results), tests(results, "smoke"), speed(results), order(results), prefill(results), peer(results),
                 products(results), attention(results), ptxas(results), tuning(results), tests(results, "tests")]:
        lines += part
    return "\n".join(lines) + "\n"


def merged(paths):
    whole = {"stages": {}}
    for path in paths:
        with open(path) as file:
            results = json.load(file)
        whole = {**whole, **results, "stages": {**whole["stages"], **results["stages"]}}
    return whole


if __name__ == "__main__":
    print(summary(merged(sys.argv[1:])), end="")
