#!/usr/bin/env python3
"""Prints the settings of a peer that are worth a run: all in the first round, then those that have been within 5 % of
the fastest at some length, by prefill or decode.

usage: settings.py RESULTS.jsonl PEER SETTING.."""
import collections, json, statistics, sys

NEAR = 0.95


def rates(row):
    """Tokens a second of prefill and of decode, where they were measured."""
    yield "prefill", row["tokens"] / row["prefill_seconds"]
    if row.get("decode_tokens_per_second"):
        yield "decode", row["decode_tokens_per_second"]


def worth(rows, settings):
    """Those of `settings` that are within NEAR of the fastest in something; all where nothing was measured."""
    measured = collections.defaultdict(lambda: collections.defaultdict(list))
    for row in rows:
        for measure, rate in rates(row):
            measured[measure, row["tokens"]][row.get("setting")].append(rate)
    if not measured:
        return settings
    near = set()
    for by_setting in measured.values():
        medians = {setting: statistics.median(values) for setting, values in by_setting.items()}
        near |= {setting for setting, median in medians.items() if median >= NEAR * max(medians.values())}
    return [setting for setting in settings if setting in near]


def main():
    results, peer, *settings = sys.argv[1:]
    with open(results, encoding="utf-8") as lines:
        rows = [row for row in map(json.loads, lines) if row["peer"].split(" (")[0] == peer]
    print("\n".join(worth(rows, settings)))


if __name__ == "__main__":
    main()
