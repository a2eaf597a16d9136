"""A dual encoder adapted to your videos, for `vlt embed` and `vlt search`.

CAPTIONS is a .jsonl, .csv or .parquet file with `video`, a path below the folder of --videos, and
`caption`. A part of the videos is held out; the rest trains the method, over the model as it is, by
the recipe of its paper. What that costs here is told before it starts; at the end stands a table of
how well captions find the held-out videos, before and after, and the model is in a folder of its
own. Called again after it was stopped, the same command goes on.
"""

import argparse
from pathlib import Path

from vlt.command_line.present import check_model, check_paths

METHODS = ("tempme", "lora", "btadapter")


def parse(program: str, arguments: list[str] | None = None) -> argparse.Namespace:
    """The arguments, or those of this process; ends it where they do not fit."""
    parser = argparse.ArgumentParser(
        prog=program,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--videos", type=Path, required=True, metavar="DIR", help="folder of the videos"
    )
    parser.add_argument(
        "--captions", type=Path, required=True, metavar="FILE", help="what is said of them"
    )
    parser.add_argument("--model", required=True, help="model folder, as in --model=tiny_clip")
    parser.add_argument(
        "--method",
        choices=METHODS,
        default="tempme",
        help="tempme: LoRA, and tokens merged over time; lora: alone; btadapter: a branch for time "
        "beside the frozen tower (default: %(default)s)",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the adapted model's folder"
    )
    parser.add_argument(
        "--group",
        default="",
        metavar="COLUMN",
        help="of CAPTIONS: videos that are alike there train in one batch, such as those that are "
        "told apart by time alone; as many of each",
    )
    parser.add_argument("--frames", type=int, metavar="N", help="of a clip; the model's, or 12")
    parser.add_argument("--batch", type=int, metavar="N", help="videos of a step; what fits here")
    parser.add_argument("--steps", type=int, metavar="N", help="50 passes, at most 1000 steps")
    parser.add_argument("--dry-run", action="store_true", help="tell the cost, and train nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    options = parser.parse_args(arguments)
    for name in ("frames", "batch", "steps"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            parser.error(f"--{name}={getattr(options, name)}: at least 1 is needed")
    check_paths(options.videos, options.captions)
    check_model(options.model)
    return options
