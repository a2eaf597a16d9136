"""Results on stdout as they come, one line or JSON object each; errors and progress on stderr."""

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from vlt.data.text.texts import printable
from vlt.data.video.errors import VideoError

PROGRESS_EVERY = 5.0  # seconds

T = TypeVar("T")


def print_results(
    results: Iterable[tuple[str, T | list[T] | VideoError]],
    count: int,
    fields: Callable[[T], dict[str, Any]],
    line: Callable[[T], str] = str,
    *,
    as_json: bool,
    progress: bool = True,
    row: Callable[[str, T], str] | None = None,
) -> int:
    """Prints the results of `count` videos as they come; returns the exit status.

    The status is 0 if every video was read, else 1. As JSON, an unreadable video has `error` in
    place of its fields. A list holds several results for a video, each printed on its own line.
    Nothing printed acts on a terminal.

    Args:
        fields: the fields of a result's JSON object, besides `video`. line: the same as text.
        progress: whether stderr tells how many are done.
        row: the whole line for a video and a result, if it is not `video: line`.
    """
    failed, done = 0, Progress(count)
    row = row or (lambda path, each: f"{path}: {line(each)}")
    for path, result in results:
        if isinstance(result, VideoError):
            failed += 1
            print(printable(f"error: {result}"), file=sys.stderr)
        for each in result if isinstance(result, list) else [result]:
            if as_json:
                entry = {"error": each.reason} if isinstance(each, VideoError) else fields(each)
                print_object({"video": path, **entry})
            elif not isinstance(each, VideoError):
                print(printable(row(path, each)), flush=True)
        if progress:
            done.step()
    if failed:
        print(f"{failed} of {count} videos could not be read", file=sys.stderr)
    return 1 if failed else 0


def print_object(entry: Mapping[str, Any]) -> None:
    """Prints a JSON object on a line, of which nothing acts on a terminal."""
    print(printable(json.dumps(entry, ensure_ascii=False)), flush=True)


def clock(seconds: float) -> str:
    """Formats seconds as 1:02:03.5, or 2:03.5 below an hour."""
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"


class Progress:
    """Prints `done of count` on stderr every few seconds, and the speed if videos have lengths."""

    def __init__(self, count: int):
        self._count, self.done, self._seconds = count, 0, 0.0
        self._begun = self._told = time.monotonic()

    def step(self, seconds: float = 0.0) -> None:
        """Counts one more as done, a video that lasts `seconds`."""
        self.done += 1
        self._seconds += seconds
        if self._is_time():
            speed = f", {self.speed()}, {self._left()} left" if self._seconds else ""
            print(f"{self.done} of {self._count}{speed}", file=sys.stderr)

    def within(self, name: str, at: float, length: float) -> None:
        """Tells, if nothing was told for long, how far a long video is done, in seconds."""
        if length and self._is_time():
            print(printable(f"{name}: {clock(at)} of {clock(length)}"), file=sys.stderr)

    def _is_time(self) -> bool:
        """Whether something is to be told now, after which nothing is for a while."""
        late = time.monotonic() - self._told > PROGRESS_EVERY
        if late:
            self._told = time.monotonic()
        return late

    def speed(self) -> str:
        """Videos per second, and hours of video per hour, since the start."""
        passed = time.monotonic() - self._begun
        return f"{self.done / passed:.3g} videos/s, {self._seconds / passed:.3g} h of video/h"

    def _left(self) -> str:
        seconds = (time.monotonic() - self._begun) * (self._count / self.done - 1)
        return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
