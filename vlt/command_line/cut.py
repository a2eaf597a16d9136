"""Ranges of videos as files of their own: those that `vlt search` found, or one.

RANGES is a file of JSON Lines with `video`, `start` and `end` in seconds, as `vlt search --json`
prints them, or - for stdin; VIDEO with --start and --end is one range. Where a range begins and
ends at keyframes its packets are copied as they are; elsewhere its frames, no other ones, are
encoded anew. Sound is copied. Files are called after the video and the range; one that is there
already is left as it is. A line is printed for each, or with --json an object of `video`, `start`,
`end`, `file` and `copied`, or `error`; the exit status is 1 where a range could not be cut.
"""

import argparse
from pathlib import Path


def parse(program: str, arguments: list[str] | None = None) -> argparse.Namespace:
    """The arguments, or those of this process; ends it where they do not fit."""
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
    options = parser.parse_args(arguments)
    if (options.start is None) != (options.end is None):
        parser.error("--start and --end belong together")
    return options
