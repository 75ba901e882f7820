#!/usr/bin/env python3
"""Completes the JSON lines of a peer: the facts given as NAME=VALUE, the machine's instruction sets, and the text of what
was generated in place of its ids.

usage: PEER | tag.py MODEL NAME=VALUE.. >> RESULTS.jsonl"""
import json, pathlib, sys

from machine import instruction_set


def main():
    facts = {"cpu": instruction_set()}
    for fact in sys.argv[2:]:
        name, _, value = fact.partition("=")
        facts[name] = int(value) if value.isdigit() else value
    tokenizer = None
    for line in sys.stdin:
        row = json.loads(line)
        ids = row.pop("generated_ids", None)
        if ids is not None:
            if tokenizer is None:
                from tokenizers import Tokenizer
                tokenizer = Tokenizer.from_file(str(pathlib.Path(sys.argv[1]) / "tokenizer.json"))
            row["generated"] = tokenizer.decode(ids, skip_special_tokens=False)
        print(json.dumps({**row, **facts}), flush=True)


if __name__ == "__main__":
    main()
