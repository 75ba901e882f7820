#!/usr/bin/env python3
"""Prints the ids of the first N tokens of a text as JSON, so that no peer's memory holds a tokenizer.

usage: tokens.py MODEL TEXT N"""
import json, pathlib, sys

from tokenizers import Tokenizer


def main():
    folder, text, count = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = tokenizer.encode(text.read_text(encoding="utf-8"), add_special_tokens=False).ids
    if len(ids) < count:
        sys.exit(f"{text} has {len(ids)} tokens, {count} are asked for")
    print(json.dumps(ids[:count]))


if __name__ == "__main__":
    main()
