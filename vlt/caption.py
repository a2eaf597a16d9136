"""`vlt caption VIDEO... [--model=FOLDER | --workdir=DIR] [--json]`: captions of videos."""

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

from vlt.api import VideoCaptioner
from vlt.command_line.caption import parse
from vlt.data.errors import VideoError
from vlt.door import load_kind, run_door
from vlt.inference.batching import map_videos
from vlt.inference.discover import find_videos
from vlt.inference.printing import print_results
from vlt.models.search import Search


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
    return run(parse("python -m vlt.caption", arguments))


def run(options: argparse.Namespace) -> int:
    """The same, of arguments that were parsed."""
    return run_door(lambda: _print_captions(options))


def _print_captions(options: argparse.Namespace) -> int:
    search = parse_search(options.set)
    paths = find_videos(options.videos)
    model = load_captioner(options.model, options.workdir)
    with contextlib.closing(captions(model, paths, options.prompt, **search)) as results:
        return print_results(
            results, len(paths), lambda caption: {"caption": caption}, as_json=options.json
        )


if __name__ == "__main__":
    sys.exit(main())
