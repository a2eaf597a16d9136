"""The arguments of every command that runs a model over one's own videos."""

import argparse
from collections.abc import Callable
from pathlib import Path


def make_parser(
    program: str, description: str | None, model: str, videos: str = "+"
) -> argparse.ArgumentParser:
    """Makes a parser of the shared arguments: VIDEO..., --model or --workdir, and --json.

    Args:
        program: as typed. model: default of --model, for when --workdir is not given either.
        videos: how many, as argparse's `nargs`.
    """
    parser = argparse.ArgumentParser(
        prog=program,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("videos", nargs=videos, metavar="VIDEO", help="file, folder or pattern")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--model", default=model, help="model folder")
    source.add_argument("--workdir", type=Path, help="folder of a run that trained such a model")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    add_allow_truncated(parser)
    return parser


def add_allow_truncated(parser: argparse.ArgumentParser) -> None:
    """Adds --allow-truncated, for commands that read videos."""
    parser.add_argument(
        "--allow-truncated",
        action="store_true",
        help="take a truncated or damaged video for what can be read of it, up to the damage; "
        "without this it is an error",
    )


def whole_number(least: int, most: int, bounds: str) -> Callable[[str], int]:
    """The argparse type of a number within bounds, which are also given in words."""

    def parse(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r}: a whole number {bounds} is needed")
        return int(text)

    return parse


def add_neighbours(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds --neighbours, for commands that make an index or search in one."""
    parser.add_argument(
        "--neighbours",
        choices=("auto", "exact", "graph"),
        default="auto",
        help=f"{what}: all windows compared in memory, or by a graph that finds nearly all of the "
        "nearest; auto takes the graph beyond 0.5 GB of float32 vectors, or half the free memory",
    )
