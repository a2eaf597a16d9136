"""The video files that a command line names."""

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from vlt.data.video.suffixes import VIDEO_SUFFIXES


def find_videos(names: Iterable[str]) -> list[str]:
    """The files that names of files, folders and patterns stand for, each once.

    A folder stands for every video file below it, sorted, also in folders that are linked there; a
    name that is neither a folder nor a pattern stands for itself, whether or not it exists, so that
    reading it tells what is wrong.

    Raises:
        ValueError: a folder without a video file, or a pattern that matches nothing.
    """
    videos: dict[str, str] = {}  # as first named, by the whole path
    for name in names:
        matches = _matches(name)
        if not matches:
            raise ValueError(f"{name}: no video file there")
        for path in matches:
            videos.setdefault(os.path.abspath(path), path)
    return list(videos.values())


def _matches(name: str) -> list[str]:
    if Path(name).is_dir():
        return [str(path) for path in sorted(_below(name)) if _is_video(path)]
    if glob.has_magic(name) and not Path(name).exists():
        return [path for path in sorted(glob.glob(name, recursive=True)) if Path(path).is_file()]
    return [name]


def _below(folder: str) -> Iterator[Path]:
    """The files below a folder, each real folder once: those that are linked there come last."""
    waiting, seen = [folder], set[str]()
    while waiting:
        for here, folders, files in os.walk(waiting.pop(0)):
            if (real := os.path.realpath(here)) in seen:
                folders.clear()
                continue
            seen.add(real)
            waiting += filter(os.path.islink, sorted(os.path.join(here, each) for each in folders))
            yield from (Path(here, file) for file in files)


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()
