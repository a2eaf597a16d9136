"""Writes captions of videos.

VIDEO is a file, a folder (every video file below it) or a pattern ('clips/**/*.mp4'). It is read as
the model folder records: with the sampler, frames and size of its evaluation; if the folder records
none, at the centres of equal segments, with as many frames as in training, or else 8.

Prints a line `path: caption` for each video; with --json, an object with `video` and `caption`, or
`error`. Videos that cannot be read are named on stderr and the others are captioned; the exit
status is then 1.
"""

import argparse

from vlt.command_line.own_videos import make_parser
from vlt.command_line.present import check_model

MODEL = "tiny_blip"


def parse(program: str, arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the arguments, by default those of this process; exits if they do not fit."""
    parser = make_parser(program, __doc__, MODEL)
    parser.add_argument("--prompt", default="", help="how captions begin; it is not printed")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of the search: beams, max_length, ... (vlt/models/search.py); repeatable",
    )
    options = parser.parse_args(arguments)
    check_model(options.model, options.workdir)
    return options
