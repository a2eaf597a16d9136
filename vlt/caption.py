"""`python -m vlt.caption VIDEO... [--model=FOLDER | --workdir=DIR] [--json]`: captions of videos.

VIDEO is a file, a folder (every video file below it) or a pattern ('clips/**/*.mp4'). Frames are
sampled at the centres of equal segments, as many as the model was trained with, else 8.

A line `path: caption` is printed for each; with --json an object of `video` and `caption`, or
`error`. Videos that cannot be read are named on stderr, the others are captioned, and the exit
status is 1.
"""

import argparse
import dataclasses
import glob
import json
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.annotation_files import VIDEO_SUFFIXES
from vlt.api import VideoCaptioner, as_model
from vlt.configuration import ConfigError
from vlt.data.clips import ClipRequest, DecoderPool
from vlt.data.errors import VideoError
from vlt.data.texts import printable
from vlt.model_io.folder import ModelConfig, ModelFolderError
from vlt.model_io.loading import load_folder
from vlt.models.generation import Search
from vlt.storage.trees import CheckpointError

MODEL = "tiny_blip"
SAMPLER = "segment_centre"
FRAMES = 8  # of models that were trained on none
BATCH = 4
WORKERS = 2
PROGRESS_EVERY = 5.0  # seconds


def find_videos(names: Iterable[str]) -> list[str]:
    """Files that names of files, folders and patterns stand for, each once.

    Raises:
        ValueError: a folder without a video file, or a pattern that matches nothing.
    """
    found: list[str] = []
    for name in names:
        if Path(name).is_dir():
            matches = [str(path) for path in sorted(Path(name).rglob("*")) if _is_video(path)]
        elif glob.has_magic(name) and not Path(name).exists():
            matches = [path for path in sorted(glob.glob(name, recursive=True)) if _is_file(path)]
        else:
            matches = [name]
        if not matches:
            raise ValueError(f"{name}: no video file there")
        found += matches
    return list(dict.fromkeys(found))


def _is_file(path: str) -> bool:
    return Path(path).is_file()


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()


def request(config: ModelConfig, path: str) -> ClipRequest:
    """How the model of a folder sees a video file."""
    pixels = config.preprocessing
    side = pixels["image_size"]
    transform: dict[str, Any] = {"resize": (side, side)}
    if pixels.get("crop") == "center":
        transform = {"resize": side, "crop": side}
    transform["interpolation"] = pixels.get("resize", "bicubic")
    return ClipRequest(path, SAMPLER, config.frames or FRAMES, transform)


def captions(
    model: VideoCaptioner, paths: Sequence[str], prompt: str = "", **search: Any
) -> Iterator[tuple[str, str | VideoError]]:
    """Each path with its caption, or with why it could not be read, in order.

    Raises:
        ValueError: as `VideoCaptioner.generate`.
    """
    size = min(BATCH, len(paths))
    for part, clips in _read_ahead(model.config, paths, size):
        read = [clip for clip in clips if not isinstance(clip, VideoError)]
        texts: list[str] = []
        if read:
            # Filled up, so that one program does for all.
            filled = [*read, *[read[0]] * (size - len(read))]
            texts = model.generate(np.stack(filled), prompt, **search)
        following = iter(texts)
        for path, clip in zip(part, clips, strict=True):
            yield path, clip if isinstance(clip, VideoError) else next(following)


def _read_ahead(
    config: ModelConfig, paths: Sequence[str], size: int
) -> Iterator[tuple[Sequence[str], list[np.ndarray | VideoError]]]:
    """`size` paths at a time and their clips uint8 [t, H, W, 3]; the next are read meanwhile."""
    workers = min(WORKERS, size)
    with DecoderPool(workers) as pool, ThreadPoolExecutor(workers) as threads:

        def read(path: str) -> np.ndarray | VideoError:
            try:
                return pool.read(request(config, path))
            except VideoError as error:
                return error

        waiting: deque[tuple[Sequence[str], list[Future]]] = deque()
        for start in range(0, len(paths), size):
            part = paths[start : start + size]
            waiting.append((part, [threads.submit(read, path) for path in part]))
            if len(waiting) > 1:
                yield _results(*waiting.popleft())
        while waiting:
            yield _results(*waiting.popleft())


def _results(part: Sequence[str], futures: list[Future]) -> tuple[Sequence[str], list[Any]]:
    return part, [future.result() for future in futures]


def load_captioner(model: str, workdir: Path | None) -> VideoCaptioner:
    """The captioner of a model folder, or of a run.

    Raises:
        ModelFolderError, ConfigError, CheckpointError: nothing whole is there.
        ValueError: another kind of model.
    """
    if workdir is None:
        loaded = load_folder(model)
    else:
        from vlt.export import trained_model

        loaded = trained_model(workdir)
    kind = loaded.config.spec.kind
    if kind != "captioner":
        raise ValueError(f"{workdir or model} is a {kind}, which writes no captions")
    return as_model(loaded)


def parse_search(pairs: Iterable[str]) -> dict[str, Any]:
    """['key=value', ...] -> fields of `Search`.

    Raises:
        ValueError: an unknown key, a value of another type, or one out of range.
    """
    types = {field.name: type(field.default) for field in dataclasses.fields(Search)}
    found = {}
    for pair in pairs:
        key, _, text = pair.partition("=")
        if key not in types:
            raise ValueError(f"--set {pair}: key=value with one of {', '.join(types)}")
        try:
            found[key] = types[key](text)
        except ValueError as error:
            raise ValueError(f"--set {pair}: {error}") from error
    Search(**found)  # before any video is read
    return found


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; 0 when every video has a caption."""
    options = _parser().parse_args(arguments)
    try:
        search = parse_search(options.set)
        paths = find_videos(options.videos)
        model = load_captioner(options.model, options.workdir)
        failed = _print_all(captions(model, paths, options.prompt, **search), len(paths), options)
    except (CheckpointError, ConfigError, ModelFolderError, ValueError) as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        return 1
    if failed:
        print(f"{failed} of {len(paths)} videos could not be read", file=sys.stderr)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m vlt.caption",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help="file, folder or pattern")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--model", default=MODEL, help="model folder of a captioner")
    source.add_argument("--workdir", type=Path, help="folder of a run that trained a captioner")
    parser.add_argument("--prompt", default="", help="how captions begin; it is not printed")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of the search: beams, max_length, ... (vlt/models/generation.py); repeatable",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    return parser


def _print_all(
    found: Iterable[tuple[str, str | VideoError]], count: int, options: argparse.Namespace
) -> int:
    """Prints captions as they come. Returns how many videos could not be read."""
    failed, told = 0, time.monotonic()
    for done, (path, caption) in enumerate(found, 1):
        entry = {"video": path, "caption": caption}
        if isinstance(caption, VideoError):
            failed += 1
            entry = {"video": path, "error": caption.reason}
            print(printable(f"error: {caption}"), file=sys.stderr)
        if options.json:
            print(printable(json.dumps(entry, ensure_ascii=False)), flush=True)
        elif "caption" in entry:
            print(printable(f"{path}: {caption}"), flush=True)
        if time.monotonic() - told > PROGRESS_EVERY:
            told = time.monotonic()
            print(f"{done} of {count}", file=sys.stderr)
    return failed


if __name__ == "__main__":
    sys.exit(main())
