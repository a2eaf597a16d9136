"""Tells which of your labels a video shows.

VIDEO is a file, a folder (every video file below it) or a pattern ('clips/**/*.mp4'), read as the
model folder records. Each label becomes a text by --template, and probabilities are over all
labels. A model trained on classes without texts (configs/probe.py) takes the names of those
classes, in their order. Prints the most probable labels; with --json, an object with `video` and
`labels`, {label: probability}; with --csv, a row `video,label,probability` for each. Videos that
cannot be read are named on stderr, and the exit status is then 1.
"""

import argparse

from vlt.command_line.own_videos import make_parser
from vlt.command_line.present import check_model


def parse(program: str, arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the arguments, by default those of this process; exits if they do not fit."""
    parser = make_parser(program, __doc__, "")
    parser.add_argument(
        "--labels", required=True, metavar="FILE|A,B,C", help="one a line of a file, or by commas"
    )
    parser.add_argument(
        "--template", default="{}", help="of texts; {} is the label (default: %(default)s)"
    )
    parser.add_argument("--top", type=int, default=5, metavar="K", help="labels of each video")
    parser.add_argument("--csv", action="store_true", help="print rows for a table")
    options = parser.parse_args(arguments)
    if not options.model and options.workdir is None:
        parser.error("one of --model and --workdir is needed, as in --model=tiny_clip")
    if options.top < 1:
        parser.error(f"--top={options.top}: at least one label is needed")
    if options.csv and options.json:
        parser.error("--csv and --json are two forms of the same; take one")
    check_model(options.model, options.workdir)
    return options
