"""Captions of videos.

VIDEO is a file, a folder (every video file below it) or a pattern ('clips/**/*.mp4'). It is read as
the model's folder records: by the sampler, frames and size of its evaluation, or, in folders that
say nothing, at the centres of equal segments, in as many frames as it was trained with, else 8.

A line `path: caption` is printed for each; with --json an object of `video` and `caption`, or
`error`. Videos that cannot be read are named on stderr, the others are captioned, and the exit
status is 1.
"""

import argparse

from vlt.command_line.own_videos import make_parser
from vlt.command_line.present import check_model

MODEL = "tiny_blip"


def parse(program: str, arguments: list[str] | None = None) -> argparse.Namespace:
    """The arguments, or those of this process; ends it where they do not fit."""
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
