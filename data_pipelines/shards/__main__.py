"""Writes the videos of a manifest into ArrayRecord shards, with Apache Beam.

    python -m data_pipelines.shards --manifest=data/msrvtt/train_9k.jsonl --out=data/msrvtt_clips \
        --form=clips --short-side=224 --fps=5

writes the shards and OUT/manifest.jsonl, which any config takes instead of the manifest. Run again,
it resumes where it was stopped. Videos that cannot be read are left out, printed and listed in
OUT/broken.jsonl; the status is then 1, unless their share is at most --max-broken. Options that
are not listed here are Beam's (--runner=DataflowRunner ...).
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping
from typing import Any

from data_pipelines.shards import files, folder
from data_pipelines.shards.encode import FORMS, Clips, Frames, check_form
from vlt.command_line import why

SHOWN = 5  # broken videos that are printed
HELP = {
    "short_side": "pixels; no frame is enlarged (256)",
    "fps": "most frames a second; 0 keeps all (0)",
    "keyframe_interval": "of clips: most frames from keyframe to keyframe (12)",
    "crf": "of clips: x264's rate factor, 0 to 51, less is better (20)",
    "frames": "of frames: most frames of a video, evenly spread; 0 for any number (0)",
    "quality": "of frames: of JPEG, 1 to 95 (90)",
}


def main() -> None:
    """The command line; ends with status 0, 1 (too many broken videos) or 2 (cannot run)."""
    parser = _parser()
    arguments, flags = parser.parse_known_args()
    out = arguments.out
    try:
        form = _form(vars(arguments))
        from data_pipelines.shards import pipeline

        empty = pipeline.new_pipeline(flags, own=vars(arguments))
        rows = folder.read_rows(arguments.manifest)
        plan = folder.make_plan(arguments.manifest, arguments.videos, form, arguments.per_shard)
        videos = folder.distinct_videos(rows)
        unfinished = folder.start(out, plan, videos)
    except (ImportError, ValueError, OSError) as error:
        parser.error(_told(out, error))
    try:
        if unfinished:
            shards = folder.shard_names(plan, len(videos))
            pipeline.run(empty, out, plan, shards, arguments.timeout)
            folder.finish(out, plan, rows)
        folder.tidy(out)
    except (folder.FolderError, OSError) as error:
        parser.error(_told(out, error))
    sys.exit(_summary(out, arguments.max_broken))


def _told(out: str, error: Exception) -> str:
    return f"{out} cannot be written: {why(error)}" if isinstance(error, OSError) else str(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.shards",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--manifest", required=True, help="its file, on this disk")
    parser.add_argument("--videos", default="", help="folder of the paths (the manifest's)")
    parser.add_argument("--out", required=True, help="folder for the shards")
    parser.add_argument("--form", required=True, choices=FORMS)
    for name, text in HELP.items():
        kind = float if name == "fps" else int
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help=text)
    parser.add_argument("--per-shard", type=int, default=256, help="videos in a shard (256)")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for one video (600)")
    parser.add_argument(
        "--max-broken", type=float, default=0.0, help="share of videos that may be broken (0)"
    )
    return parser


def _form(given: Mapping[str, Any]) -> Clips | Frames:
    kind = FORMS[given["form"]]
    wanted = {name: given[name] for name in HELP if given[name] is not None}
    known = {field.name for field in dataclasses.fields(kind)}
    if others := [f"--{name.replace('_', '-')}" for name in wanted if name not in known]:
        raise ValueError(f"{', '.join(others)}: no option of --form={given['form']}")
    if given["per_shard"] < 1:
        raise ValueError(f"--per-shard must be >= 1, got {given['per_shard']}")
    form = kind(**wanted)
    check_form(form)
    return form


def _summary(out: str, max_broken: float) -> int:
    """Prints what the folder holds; returns the status."""
    index = json.loads(files.read(files.join(out, folder.INDEX)) or b"")
    lines = (files.read(files.join(out, folder.BROKEN)) or b"").splitlines()
    broken, total = index["broken"], index["broken"] + index["videos"]
    size = sum(shard["bytes"] for shard in index["shards"].values())
    print(
        f"{files.join(out, folder.MANIFEST)}: {index['videos']:,} videos, {index['rows']:,} rows, "
        f"{len(index['shards']):,} shards, {size:,} bytes"
    )
    if broken:
        print(
            f"{broken:,} of {total:,} videos are broken and left out, with "
            f"{index['rows_left_out']:,} rows; all are in {files.join(out, folder.BROKEN)}"
        )
        for line in map(json.loads, lines[:SHOWN]):
            print(f"  {line['video']}: {line['error']}: {line['reason']}")
    return int(broken > max_broken * total)


if __name__ == "__main__":
    main()
