"""Cuts ranges of videos, those that `vlt search` found or a single one, into files of their own.

RANGES is a file of JSON Lines with `video`, `start` and `end` in seconds, as `vlt search --json`
prints them, or - for stdin; VIDEO with --start and --end is one range. If a range begins and ends
at keyframes, its packets are copied as they are; otherwise exactly its frames are re-encoded. Sound
is copied. Files are named after the video and the range; one that exists already is left as it is.
Prints a line for each, or with --json an object with `video`, `start`, `end`, `file` and `copied`,
or `error`; the exit status is 1 if a range could not be cut.
"""

import argparse
from pathlib import Path

from vlt.command_line.own_videos import add_allow_truncated


def parse(program: str, arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the arguments, by default those of this process; exits if they do not fit."""
    parser = argparse.ArgumentParser(
        prog=program,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("ranges", metavar="RANGES|VIDEO")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder of the files"
    )
    parser.add_argument("--start", type=float, metavar="S", help="of one range, in seconds")
    parser.add_argument("--end", type=float, metavar="S", help="of one range, in seconds")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    add_allow_truncated(parser)
    options = parser.parse_args(arguments)
    if (options.start is None) != (options.end is None):
        parser.error("--start and --end belong together")
    return options
