#!/usr/bin/env python3
"""Medians over the rounds of bench-peers, and how apb compares with the fastest peer. usage: table.py RESULTS.jsonl"""
import collections, json, statistics, sys

rows = collections.defaultdict(list)
for line in open(sys.argv[1], encoding="utf-8"):
    row = json.loads(line)
    rows[row["tokens"], row["peer"]].append(row)

MEASURES = {
    "prefill tok/s": lambda row: row["tokens"] / row["prefill_seconds"],
    "decode tok/s": lambda row: row["decode_tokens_per_second"],
}
for measure, value in MEASURES.items():
    print(f"\n{measure:<32}{'tokens':>8}{'median':>10}{'lowest':>10}{'highest':>10}")
    for count in sorted({tokens for tokens, _ in rows}):
        medians = {}
        for (tokens, peer), measured in sorted(rows.items()):
            if tokens == count:
                values = [value(row) for row in measured]
                medians[peer] = statistics.median(values)
                print(f"{peer:<32}{count:>8}{medians[peer]:>10.1f}{min(values):>10.1f}{max(values):>10.1f}")
        ours = medians.pop("apb", None)
        if ours is not None and medians:
            peer, best = max(medians.items(), key=lambda item: item[1])
            print(f"  apb / {peer}: {ours / best:.2f}")

for count in sorted({tokens for tokens, _ in rows}):
    texts = {row["generated"] for (tokens, _), measured in rows.items() if tokens == count
             for row in measured if "generated" in row}
    if len(texts) > 1:
        print(f"\n{count} tokens: the peers go on differently, so one of them computes something else:")
        print("\n".join(f"  {text!r}" for text in sorted(texts)))
peaks = {tokens: max(row.get("peak_bytes") or 0 for row in measured)
         for (tokens, peer), measured in rows.items() if peer == "apb"}
for tokens, peak in sorted(peaks.items()):
    print(f"apb, {tokens} tokens: peak {peak / 2**20:.0f} MiB")
