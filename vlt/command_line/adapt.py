"""Adapts a dual encoder to your videos, for `vlt embed` and `vlt search`.

CAPTIONS is a .jsonl, .csv or .parquet file with `video`, a path below the folder of --videos, and
`caption`. Some of the videos are held out; the rest train the method on top of the model as it is,
with the recipe of its paper. The cost on this machine is printed before training starts. At the
end, a table shows how well captions find the held-out videos before and after, and the adapted
model is in a folder of its own. The same command resumes a run that was stopped.
"""

import argparse
from pathlib import Path

from vlt.command_line.present import check_model, check_paths

METHODS = ("tempme", "lora", "btadapter")


def parse(program: str, arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the arguments, by default those of this process; exits if they do not fit."""
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
