"""From videos to windows: which there are, and what a model sees of each, read ahead."""

import contextlib
import dataclasses
import itertools
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from vlt.data.video.clips import ClipRequest, DecoderPool
from vlt.data.video.errors import VideoError
from vlt.data.video.spans import Span, SpansRequest, TimelineRequest, timeline_of
from vlt.indexing.rows import FileEntry
from vlt.indexing.windows import WindowRule
from vlt.inference.prefetch import read_ahead

AT_ONCE = 8  # windows of a file that are asked for together

# Files of which the first windows are held: the checksum of the bytes that they are of, and how
# many there are.
Begun = Mapping[str, tuple[str, int]]


@dataclasses.dataclass(frozen=True)
class Window:
    """A window of a file, or why the file, or this part of it, cannot be read."""

    entry: FileEntry
    span: Span
    clip: np.ndarray | VideoError


def held_of(entry: FileEntry, begun: Begun) -> int:
    """How many of a file's windows are held, if its bytes are still those that they are of."""
    checksum, held = begun.get(entry.path, ("", 0))
    return held if checksum == entry.sha256 else 0


def read_windows(
    pool: DecoderPool,
    entries: Sequence[FileEntry],
    look: ClipRequest,
    rule: WindowRule,
    begun: Begun = MappingProxyType({}),
) -> Generator[Window, None, None]:
    """Yields the windows of all files that are not held yet, reading a few of a file at once."""
    asked: list[FileEntry] = []  # the file of each request, in order
    failed: list[Window] = []

    def requests() -> Iterator[SpansRequest]:
        for entry, spans in _planned(pool, entries, look, rule):
            if isinstance(spans, VideoError):
                failed.append(Window(entry, (0.0, 0.0), spans))
                continue
            for at in range(held_of(entry, begun), len(spans), AT_ONCE):
                asked.append(entry)
                after = at + AT_ONCE
                yield _spans_request(look, entry.path, spans[at:after], spans[after:])

    with contextlib.closing(read_ahead(pool, requests(), 2 * pool.workers)) as batches:
        for batch, answers in batches:
            for request, answer in zip(batch, answers, strict=True):
                yield from _windows_of(asked.pop(0), request.spans, answer)
    yield from failed


def _planned(
    pool: DecoderPool, entries: Sequence[FileEntry], look: ClipRequest, rule: WindowRule
) -> Iterator[tuple[FileEntry, Sequence[Span] | VideoError]]:
    """Yields each file with its windows, or with the reason that it cannot be scanned."""
    asked = [TimelineRequest(e.path, rule.kind == "shots", look.allow_truncated) for e in entries]
    with contextlib.closing(read_ahead(pool, asked, 2 * pool.workers)) as batches:
        told = (answer for _, answers in batches for answer in answers)
        for entry, answer in zip(entries, told, strict=True):
            if isinstance(answer, VideoError):
                yield entry, answer
                continue
            timeline = timeline_of(answer, entry.path)
            spans = rule.cut(timeline)
            found = dataclasses.replace(
                entry,
                sha256=timeline.sha256,
                duration=timeline.duration,
                windows=len(spans),
            )
            yield found, spans


def _spans_request(
    look: ClipRequest, path: str, spans: Sequence[Span], rest: Iterable[Span]
) -> SpansRequest:
    end = max(stop for _, stop in spans)
    later = list(itertools.takewhile(lambda span: span[0] < end, rest))
    return SpansRequest.of(look, spans, path=path, later=later)


def _windows_of(
    entry: FileEntry, spans: Sequence[Span], answer: np.ndarray | VideoError
) -> Iterator[Window]:
    if isinstance(answer, VideoError):
        yield Window(entry, spans[0], answer)
    else:
        yield from (Window(entry, *each) for each in zip(spans, answer, strict=True))
