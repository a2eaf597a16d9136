"""Tests claims of the papers in miniature, on moving shapes, and writes a page of the results.

A claim is rows of configs and comparisons of them; its verdict, `holds`, `does not` or `undecided`,
is computed from at least 3 seeds and 520 pairs of twins. The plan and how long it takes are printed
first. Each row is saved as a JSON file when it ends, and a row that claims share runs once; after a
stop or a kill, or with other claims or more seeds, the same command continues from what is saved. A
row whose config has changed since then runs again.

OUT/CLAIMS.md is the page, OUT/claims holds the rows, OUT/pictures/claim-NAME.png are the pictures.
All claims with three seeds are estimated at six to seven hours on two idle cores, each of which
does a run of its own. --quick takes half an hour, with an eighth of the steps and one seed, for
claims that need few rows, without verdicts.
"""

import argparse
from pathlib import Path

SEEDS = 3
OUT, QUICK_OUT = Path("benchmarks"), Path("runs/quick_claims")
WORKDIR = Path("runs/study")


def parse(program: str, arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the arguments, by default those of this process; exits if they do not fit."""
    parser = argparse.ArgumentParser(
        prog=program,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--claims",
        default="",
        metavar="NAME,...",
        help="those to run, all by default; the page has all that is kept",
    )
    parser.add_argument(
        "--seeds", type=int, help=f"{SEEDS} by default; with fewer there are no verdicts"
    )
    parser.add_argument("--out", type=Path, help=f"{OUT} by default; of a quick study {QUICK_OUT}")
    parser.add_argument("--quick", action="store_true", help="a first page; no verdicts")
    parser.add_argument("--list", action="store_true", help="list the claims and end")
    parser.add_argument("--plan", action="store_true", help="print the plan and end")
    parser.add_argument(
        "--workdir", type=Path, default=WORKDIR, help=f"of unfinished runs; {WORKDIR} by default"
    )
    options = parser.parse_args(arguments)
    if options.seeds is None:
        options.seeds = 1 if options.quick else SEEDS
    if options.seeds < 1:
        parser.error(f"--seeds must be >= 1, got {options.seeds}")
    options.claims = [name for name in options.claims.split(",") if name]
    options.out = options.out or (QUICK_OUT if options.quick else OUT)
    return options
