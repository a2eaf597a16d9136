"""Builds an index of your videos, for `vlt search`.

VIDEO is a file, a folder (every video file below it), a pattern ('clips/**/*.mp4') or a manifest
(.jsonl, .csv), which stands for its videos. Each video is cut into windows of time, and each window
is embedded the way the model's evaluation sees a whole video. Run again, the same command embeds
what is new or changed and drops what no longer exists; interrupted at any moment, it resumes there.

Prints a line for each video that was embedded, or with --json an object with `video`, `windows` and
`duration`, or `error`. Videos that cannot be read are named on stderr, listed in the index with the
reason, and tried again the next time; the exit status is then 1.

Several machines can share the work with --shard=0/N to --shard=N-1/N and the same VIDEO...: each
embeds its own share of the files, whatever their order, into a part beside the index. `vlt embed
--commit --out=INDEX` joins the parts once all have finished. Videos that no longer exist are
dropped by the next `vlt embed` without --shard.
"""

import argparse
from pathlib import Path

from vlt.command_line.own_videos import add_neighbours, make_parser
from vlt.command_line.present import check_model


def parse(program: str, arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the arguments, by default those of this process; exits if they do not fit."""
    parser = make_parser(program, __doc__, "", videos="*")
    parser.add_argument(
        "--out", required=True, metavar="INDEX", help="a folder, or s3://..., gs://..."
    )
    parser.add_argument(
        "--window",
        default="4s",
        metavar="4s|shots|whole",
        help="seconds, from cut to cut, or all of a video (default: %(default)s)",
    )
    parser.add_argument(
        "--stride",
        metavar="2s",
        help="from one window's start to the next, half a window; longer than one, it leaves gaps",
    )
    parser.add_argument("--frames", type=int, metavar="N", help="of each window; the model's")
    parser.add_argument("--sampler", metavar="NAME", help="which frames (vlt/data/video/sample.py)")
    parser.add_argument(
        "--dtype",
        choices=("float16", "float32", "int8"),
        default="float16",
        help="of the vectors kept; int8, in bytes, half as large, is compared in memory alone "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--export",
        type=Path,
        metavar="FILE",
        help="also write all vectors to a new .parquet or .npz file",
    )
    add_neighbours(parser, "how `vlt search` is to find windows")
    parser.add_argument("--shard", metavar="I/N", help="embed this share of the videos, from 0")
    parser.add_argument("--commit", action="store_true", help="join the parts of all shards")
    options = parser.parse_args(arguments)
    if options.commit:
        if options.videos or options.shard:
            parser.error("--commit takes no VIDEO and no --shard: it joins what is there")
        return options
    if not options.videos:
        parser.error("a VIDEO is needed, or --commit")
    if not options.model and options.workdir is None:
        parser.error("one of --model and --workdir is needed, as in --model=tiny_clip")
    if options.dtype == "int8" and options.neighbours == "graph":
        parser.error("--neighbours=graph: no graph is made of int8 vectors; take another --dtype")
    if options.export and options.export.suffix not in (".parquet", ".npz"):
        parser.error(f"--export={options.export}: a .parquet or .npz file is needed")
    check_model(options.model, options.workdir)
    return options
