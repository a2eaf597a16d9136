"""Finds where your videos show something, using an index of `vlt embed`.

QUERY is a text; --video and --image search for what looks similar. Prints the best ranges of time
for each query, best first, each with its score, the cosine of its best window; neighbouring windows
that score nearly as high are one range. With --json, prints an object for each range with `query`,
`video`, `start`, `end`, `score` and `chance`.

--calibrate says what a score means: the chance that the best window of this index would score as
high for a query that no window shows and, if that is above 5%, that nothing stands out.
"""

import argparse
from pathlib import Path

from vlt.command_line.own_videos import add_allow_truncated, add_neighbours, whole_number
from vlt.command_line.present import check_index, check_model


def parse(program: str, arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the arguments, by default those of this process; exits if they do not fit."""
    parser = argparse.ArgumentParser(
        prog=program,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("queries", nargs="*", metavar="QUERY", help="a text")
    parser.add_argument("--index", required=True, metavar="INDEX", help="of `vlt embed`")
    parser.add_argument(
        "--queries",
        dest="file",
        metavar="FILE",
        help="one query a line of a file, or of stdin where it is -",
    )
    parser.add_argument("--video", action="append", default=[], help="a clip that is asked for")
    parser.add_argument("--image", action="append", default=[], help="a picture that is asked for")
    parser.add_argument(
        "--top",
        type=whole_number(1, 100_000, "from 1 to 100,000"),
        default=10,
        metavar="N",
        help="ranges of a query",
    )
    parser.add_argument(
        "--where",
        default="",
        metavar="SQL",
        help="a condition on start and end of windows and on path, as it was given to vlt embed: "
        "\"path LIKE 'trip/%%'\"",
    )
    add_allow_truncated(parser)
    parser.add_argument("--calibrate", action="store_true", help="say what scores mean")
    add_neighbours(parser, "how windows are found")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--model", help="model folder; the one that the index was made with")
    source.add_argument("--workdir", type=Path, help="folder of the run that trained it")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    options = parser.parse_args(arguments)
    if not (options.queries or options.file or options.video or options.image):
        parser.error("a QUERY, or one of --queries, --video and --image, is needed")
    check_index(options.index)
    check_model(options.model, options.workdir)
    return options
