"""`python -m vlt.caption VIDEO... [--model=FOLDER | --workdir=DIR] [--json]`: captions of videos.

VIDEO is a file, a folder (every video file below it) or a pattern ('clips/**/*.mp4'). Frames are
sampled at the centres of equal segments, as many as the model was trained with, else 8.

A line `path: caption` is printed for each; with --json an object of `video` and `caption`, or
`error`. Videos that cannot be read are named on stderr, the others are captioned, and the exit
status is 1.
"""

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

from vlt.api import VideoCaptioner
from vlt.data.errors import VideoError
from vlt.inference.batching import map_videos
from vlt.inference.discover import find_videos
from vlt.inference.door import load_kind, make_parser, run_door
from vlt.inference.printing import print_results
from vlt.models.generation import Search

MODEL = "tiny_blip"


def captions(
    model: VideoCaptioner, paths: Sequence[str], prompt: str = "", **search: Any
) -> Generator[tuple[str, str | VideoError], None, None]:
    """Each path with its caption, or with why it could not be read, in order.

    Raises:
        ValueError: as `VideoCaptioner.generate`.
    """
    return map_videos(lambda frames: model.generate(frames, prompt, **search), model.config, paths)


def load_captioner(model: str, workdir: Path | None) -> VideoCaptioner:
    """The captioner of a model folder, or of a run. Raises as `load_kind`."""
    return load_kind(model, workdir, ("captioner",), "writes no captions")


def parse_search(pairs: Iterable[str]) -> dict[str, Any]:
    """['key=value', ...] -> fields of `Search`.

    Raises:
        ValueError: an unknown key, a value of another type, or one out of range.
    """
    types = {field.name: type(field.default) for field in dataclasses.fields(Search)}
    options = {}
    for pair in pairs:
        key, _, text = pair.partition("=")
        if key not in types:
            raise ValueError(f"--set {pair}: key=value with one of {', '.join(types)}")
        try:
            options[key] = types[key](text)
        except ValueError as error:
            raise ValueError(f"--set {pair}: {error}") from error
    Search(**options)  # before any video is read
    return options


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; 0 when every video has a caption."""
    options = _parser().parse_args(arguments)
    return run_door(lambda: _print_captions(options))


def _print_captions(options: argparse.Namespace) -> int:
    search = parse_search(options.set)
    paths = find_videos(options.videos)
    model = load_captioner(options.model, options.workdir)
    with contextlib.closing(captions(model, paths, options.prompt, **search)) as results:
        return print_results(
            results, len(paths), lambda caption: {"caption": caption}, as_json=options.json
        )


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("vlt.caption", __doc__, MODEL)
    parser.add_argument("--prompt", default="", help="how captions begin; it is not printed")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of the search: beams, max_length, ... (vlt/models/generation.py); repeatable",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
