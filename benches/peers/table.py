#!/usr/bin/env python3
"""Medians over the rounds of bench-peers, each peer by its fastest setting, and how apb compares. usage: table.py
RESULTS.jsonl.."""
import collections, json, statistics, sys

MEASURES = {
    "prefill, tokens a second": lambda row: row["tokens"] / row["prefill_seconds"],
    "decode after that many tokens, tokens a second": lambda row: row.get("decode_tokens_per_second"),
}
MIB = 2**20


def fastest(rows, value):
    """The setting with the highest median, and its values, for each length and peer; of those that were measured in at
    least half of the rounds, so that one lucky run does not count."""
    measured = collections.defaultdict(list)
    for row in rows:
        if value(row) is not None:
            measured[row["tokens"], row["peer"], row.get("setting") or ""].append(value(row))
    most = collections.defaultdict(int)
    for (tokens, peer, _), values in measured.items():
        most[tokens, peer] = max(most[tokens, peer], len(values))
    best = {}
    for (tokens, peer, setting), values in measured.items():
        if 2 * len(values) < most[tokens, peer]:
            continue
        known = best.get((tokens, peer))
        if known is None or statistics.median(values) > statistics.median(known[1]):
            best[tokens, peer] = setting, values
    return best


def order(key):
    """By length; apb before its peers."""
    tokens, peer = key
    return tokens, peer != "apb", peer


def ratio(ours, theirs, peer):
    return "" if peer == "apb" or ours is None or not theirs else f"{ours / theirs:.2f}"


def speeds(title, rows, value):
    print(f"\n{title}")
    print(f"{'tokens':>7}  {'':<30}{'median':>9}{'lowest':>9}{'highest':>9}{'rounds':>8}{'apb is':>8}  setting")
    best = fastest(rows, value)
    for tokens, peer in sorted(best, key=order):
        setting, values = best[tokens, peer]
        median = statistics.median(values)
        ours = statistics.median(best[tokens, "apb"][1]) if (tokens, "apb") in best else None
        print(f"{tokens:>7}  {peer:<30}{median:>9.1f}{min(values):>9.1f}{max(values):>9.1f}{len(values):>8}"
              f"{ratio(ours, median, peer):>8}  {setting}".rstrip())
    return best


def memory(rows, best):
    """Peak of what is resident during prefill and decode, in the setting whose prefill is fastest."""
    peaks, bases = collections.defaultdict(list), {}
    for row in rows:
        key = row["tokens"], row["peer"]
        if row.get("peak_bytes") and (row.get("setting") or "") == best[key][0]:
            peaks[key].append(row["peak_bytes"])
            bases[key] = row.get("base_bytes")
    if not peaks:
        return
    print("\npeak resident memory, MiB; of it before weights are read")
    print(f"{'tokens':>7}  {'':<30}{'peak':>9}{'before':>9}{'apb is':>8}  setting")
    for tokens, peer in sorted(peaks, key=order):
        peak, base = max(peaks[tokens, peer]), bases[tokens, peer]
        ours = max(peaks[tokens, "apb"]) if (tokens, "apb") in peaks else None
        before = f"{base / MIB:.0f}" if base else ""
        print(f"{tokens:>7}  {peer:<30}{peak / MIB:>9.0f}{before:>9}{ratio(ours, peak, peer):>8}  "
              f"{best[tokens, peer][0]}".rstrip())


def texts(rows):
    """What was generated, where it differs."""
    for tokens in sorted({row["tokens"] for row in rows}):
        groups = collections.defaultdict(set)
        for row in rows:
            if row["tokens"] == tokens and "generated" in row:
                groups[row["generated"]].add(" ".join(filter(None, (row["peer"], row.get("setting")))))
        if len(groups) > 1:
            print(f"\n{tokens} tokens: the peers go on differently; rounding may do that, or one computes something else:")
            for text, peers in sorted(groups.items(), key=lambda item: sorted(item[1])):
                print(f"  {', '.join(sorted(peers))}:\n    {text[:120]!r}")


def main():
    for path in sys.argv[1:]:
        with open(path, encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        if not rows:
            print(f"{path}: nothing was measured")
            continue
        facts = {key: sorted({str(row[key]) for row in rows if key in row}) for key in ("model", "dtype", "cpu", "threads")}
        known = [f"{key}: {', '.join(values)}" for key, values in facts.items() if values]
        print("; ".join(known) if known else path)
        for row in {row["peer"]: row for row in rows if row.get("build")}.values():
            print(f"  {row['peer']}: {row['build']}")
        best = {title: speeds(title, rows, value) for title, value in MEASURES.items()}
        memory(rows, best[next(iter(MEASURES))])
        texts(rows)
        print()


if __name__ == "__main__":
    main()
