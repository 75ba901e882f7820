"""The command line of scripts/compare-transformers."""

import argparse
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def parse():
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/compare-transformers", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Makes tiny random Llama, Qwen2, Qwen3 and Mistral folders over a grid of what folders vary in, and "
                    "compares apb\nwith transformers: the prompt's tokens, the greedy tokens, where and why they end. The "
                    "same folders as GGUF,\nmade by llama.cpp's converter, are compared with the folders.\n\nNeeds Python "
                    "3.10, a C compiler and, the first time, a package index (about 1 GB; torch without its CUDA "
                    "parts).\nAfter that 2 to 4 minutes for 400 folders on 2 cores. Ends with 1 where a difference has "
                    "no named reason.")
    parser.add_argument("--apb", metavar="FILE", type=Path, default=os.environ.get("APB", ROOT / "target/release/apb"),
                        help="the program under test [$APB, else target/release/apb]")
    parser.add_argument("--folders", metavar="N", type=int, default=400, help="how many folders, at least [400]")
    parser.add_argument("--seed", metavar="N", type=int, default=1, help="seed of the grid and of the weights [1]")
    parser.add_argument("--only", metavar="PATTERN", help="only folders with this in their name, such as quirk=bom")
    parser.add_argument("--keep", metavar="DIR", type=Path, help="keep the folders there; otherwise only different ones")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every result there")
    parser.add_argument("--no-gguf", action="store_true", help="leave GGUF out")
    parser.add_argument("--fixtures", metavar="DIR", type=Path, help="only write the folders of tests/fixtures/compat there")
    parser.add_argument("--venv", metavar="DIR", type=Path, default=ROOT / "target/compare-transformers",
                        help="the virtual environment, made where there is none [target/compare-transformers]")
    parser.add_argument("--llama-cpp", metavar="DIR", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()
