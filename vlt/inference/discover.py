"""The video files that a command line names."""

import glob
from collections.abc import Iterable
from pathlib import Path

from vlt.data.video.suffixes import VIDEO_SUFFIXES


def find_videos(names: Iterable[str]) -> list[str]:
    """The files that names of files, folders and patterns stand for, each once.

    A folder stands for every video file below it, sorted; a name that is neither a folder nor a
    pattern stands for itself, whether or not it exists, so that reading it tells what is wrong.

    Raises:
        ValueError: a folder without a video file, or a pattern that matches nothing.
    """
    videos: dict[str, None] = {}
    for name in names:
        matches = _matches(name)
        if not matches:
            raise ValueError(f"{name}: no video file there")
        videos |= dict.fromkeys(matches)
    return list(videos)


def _matches(name: str) -> list[str]:
    if Path(name).is_dir():
        return [str(path) for path in sorted(Path(name).rglob("*")) if _is_video(path)]
    if glob.has_magic(name) and not Path(name).exists():
        return [path for path in sorted(glob.glob(name, recursive=True)) if Path(path).is_file()]
    return [name]


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()
