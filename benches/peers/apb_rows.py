#!/usr/bin/env python3
"""Runs `apb bench prefill .. --json` and prints a JSON line for each row but the first, which warms up.

usage: apb_rows.py APB ARGUMENT.."""
import json, subprocess, sys


def main():
    done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE)
    if done.returncode:
        sys.exit(done.returncode)
    summary = json.loads(done.stdout)
    for row in summary["rows"][1:]:
        print(json.dumps({"peer": "apb", "kv_dtype": summary.get("kv_dtype"), **row}))


if __name__ == "__main__":
    main()
