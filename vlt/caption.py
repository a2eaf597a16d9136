"""`vlt caption VIDEO... [--model=FOLDER | --workdir=DIR] [--json]`: captions of videos."""

import argparse
import contextlib
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from vlt.command_line.caption import parse
from vlt.data.video.errors import VideoError
from vlt.door import load_kind, parse_search, run_door
from vlt.inference.batching import map_videos
from vlt.inference.discover import find_videos
from vlt.inference.printing import print_results
from vlt.loaded import VideoCaptioner


def captions(
    model: VideoCaptioner, paths: Sequence[str], prompt: str = "", **search: Any
) -> Generator[tuple[str, str | VideoError], None, None]:
    """Yields each path with its caption, or with the reason it could not be read, in order.

    Raises:
        ValueError: as `VideoCaptioner.generate`.
    """
    return map_videos(lambda frames: model.generate(frames, prompt, **search), model.config, paths)


def load_captioner(model: str, workdir: Path | None) -> VideoCaptioner:
    """The captioner of a model folder, or of a run. Raises as `load_kind`."""
    return load_kind(model, workdir, ("captioner",), "writes no captions")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns 0 when every video has a caption."""
    return run(parse("python -m vlt.caption", arguments))


def run(options: argparse.Namespace) -> int:
    """Runs the command with parsed arguments."""
    return run_door(lambda: _print_captions(options))


def _print_captions(options: argparse.Namespace) -> int:
    search = parse_search(options.set)
    paths = find_videos(options.videos)
    model = load_captioner(options.model, options.workdir)
    model.config = model.looking_at(allow_truncated=options.allow_truncated)
    with contextlib.closing(captions(model, paths, options.prompt, **search)) as results:
        return print_results(
            results, len(paths), lambda caption: {"caption": caption}, as_json=options.json
        )


if __name__ == "__main__":
    sys.exit(main())
