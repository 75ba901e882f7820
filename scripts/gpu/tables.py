"""The tables at the end of a run, from what it measured; `tables.py FILE` prints them again."""
import json
import statistics
import sys


def tests(results, stage):
    rows = results.get(stage, [])
    if not rows:
        return []
    count = {}
    for row in rows:
        count[row["state"]] = count.get(row["state"], 0) + 1
    lines = [f"{stage}: " + ", ".join(f"{n} {state}" for state, n in sorted(count.items()))]
    for row in rows:
        kernels = [k for result in row["results"] for k in result.get("kernels", [])]
        worst = [result["worst_out_of_allowed"] for result in row["results"] if "worst_out_of_allowed" in result]
        if row["state"] != "passed" or kernels:
            share = f"error {worst[0]:.2f} of allowed" if worst else ""
            name = f"{row['test']} {row['forced']}".strip()
            lines.append(f"  {row['state']:<8} {name:<52} {row['seconds']:>6.1f} s  {share}  {' '.join(kernels)}")
        lines += [f"           {failure[:160]}" for failure in row.get("failures", [])[:3]]
    return lines


def attention(results):
    runs = results.get("attention", [])
    lines = [f"attention {run['who']} {run['dtype']} {run['forced']}: {run['error']}" for run in runs if "error" in run]
    rates = {}
    gemm = {}
    for run in runs:
        if run["who"] == "peer" and "gemm_gflops" in run:
            gemm.setdefault(run["dtype"], []).append(run["gemm_gflops"])
        for row in run.get("rows", []):
            if "gflops" not in row:
                continue
            who = row.get("backend", "apb " + (run["forced"] or "best")).replace("_ATTENTION", "").lower()
            shape = f"{row['heads']}/{row['kv_heads']}x{row['head_dim']}"
            key = run["dtype"], shape, row["case"], row["tokens"]
            rates.setdefault(key, {}).setdefault(who, []).append(row["gflops"] / 1e3)
    if not rates:
        return lines
    names = sorted({who for row in rates.values() for who in row})
    lines.append("attention, TFLOP/s per counted operation, medians of the rounds")
    for dtype, found in gemm.items():
        lines.append(f"  PyTorch's {dtype} matrix product: {statistics.median(found) / 1e3:.0f} TFLOP/s")
    head = f"  {'dtype':<6}{'shape':<12}{'case':<8}{'tokens':>8}" + "".join(f"{n:>12}" for n in names)
    lines.append(head + f"{'of flash':>10}{'of cudnn':>10}{'of gemm':>9}")
    for (dtype, shape, case, tokens), row in rates.items():
        median = {who: statistics.median(values) for who, values in row.items()}
        ours = median.get("apb best")
        share = lambda other: f"{ours / other:.2f}" if ours and other else "-"
        product = statistics.median(gemm[dtype]) / 1e3 if dtype in gemm else None
        line = f"  {dtype:<6}{shape:<12}{case:<8}{tokens:>8}"
        line += "".join(f"{median[n]:>12.2f}" if n in median else f"{'-':>12}" for n in names)
        lines.append(line + f"{share(median.get('flash')):>10}{share(median.get('cudnn')):>10}{share(product):>9}")
    return lines


def prefill(results):
    runs = results.get("prefill", {}).get("runs", [])
    if not runs:
        error = results.get("prefill", {}).get("summary", {}).get("error")
        return [f"prefill: {error}"] if error else []
    lines = ["prefill, Llama-3.1-8B shape, random weights; virtual ranks run one after another, critical: the slowest"]
    parts = list(dict.fromkeys(part for run in runs for part in run["parts"]))
    lines.append(f"  {'tokens':>8} {'method':<6}{'seconds':>10}{'tok/s':>9}{'critical':>10}"
                 + "".join(f"{part:>13}" for part in parts) + f"{'GiB':>7}")
    for run in runs:
        lines.append(f"  {run['tokens']:>8} {run['method']:<6}{run['prefill_seconds']:>10.2f}"
                     f"{run['tokens'] / run['prefill_seconds']:>9.0f}{run['critical_seconds']:>10.2f}"
                     + "".join(f"{run['parts'].get(part, 0):>13.2f}" for part in parts)
                     + f"{(run['peak_bytes'] or 0) / 2**30:>7.1f}"
                     + (f"  decode {run['decode_tokens_per_second']:.1f} tok/s" if run["decode_tokens_per_second"] else ""))
    return lines


def order(results):
    found = results.get("order")
    if not found:
        return []
    if "error" in found:
        return [f"events of a context: {found['error']}"]
    return [f"events of a context: order {'holds' if found['holds'] else 'DOES NOT HOLD'}, "
            f"{found['microseconds']:.1f} us there and back, driver {found['driver']}"]


def peer(results):
    found = results.get("peer")
    if not found:
        return []
    lines = [f"the same in PyTorch: {found['summary']['error']}"] if "error" in found["summary"] else ["the same in PyTorch"]
    for run in found["runs"]:
        rate = (f"{run['prefill_seconds']:>10.2f}{run['tokens'] / run['prefill_seconds']:>9.0f}   decode "
                f"{run['decode_tokens_per_second']:.1f} tok/s" if "prefill_seconds" in run else f"  {run['refused']}")
        lines.append(f"  {run['tokens']:>8} {run['backend'].replace('_ATTENTION', '').lower():<6}{rate}")
    products = found["summary"].get("product_tflops", {})
    if products:
        lines.append("  products, TFLOP/s: " + ", ".join(f"{name} {rate:.0f}" for name, rate in products.items()))
    return lines


def summary(results):
    head = [f"{results['version']}, {results['date']}, {results['machine']['gpu'] or results['device']}"]
    head += [f"{stage}: {'passed' if state['passed'] else 'FAILED'}, {state['seconds']} s"
             for stage, state in results["stages"].items()]
    return "\n".join(head + tests(results, "smoke") + order(results) + prefill(results) + peer(results) + attention(results)
                     + tests(results, "tests")) + "\n"


if __name__ == "__main__":
    print(summary(json.load(open(sys.argv[1]))), end="")
