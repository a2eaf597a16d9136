"""From videos to windows to vectors: read ahead, embedded in batches, written as they come."""

import contextlib
import dataclasses
import itertools
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence

import numpy as np

from vlt.data.text.texts import wrong_characters
from vlt.data.video.checksum import sha256_of
from vlt.data.video.clips import ClipRequest, DecoderPool
from vlt.data.video.errors import VideoError
from vlt.data.video.spans import SPAN_WORKER, Span, SpansRequest, TimelineRequest, timeline_of
from vlt.indexing.rows import FileEntry, Windows
from vlt.indexing.store import Store, StoreError
from vlt.indexing.windows import WindowRule
from vlt.inference.batching import map_readable
from vlt.inference.prefetch import read_ahead

BATCH = 8  # windows for each device
WORKERS = 2
TIMEOUT = 600.0  # seconds to scan a file, or to read some of its windows
WRITE_EVERY = 20.0  # seconds

Encode = Callable[[np.ndarray], np.ndarray]  # uint8 [b, t, h, w, 3] -> unit vectors [b, e]
Watch = Callable[[FileEntry, Span], None]


@dataclasses.dataclass(frozen=True)
class Window:
    """A window of a file, or why the file, or this part of it, cannot be read."""

    entry: FileEntry
    span: Span
    clip: np.ndarray | VideoError


def update(
    store: Store,
    paths: Sequence[str],
    encode: Encode,
    look: ClipRequest,
    rule: WindowRule,
    elsewhere: Mapping[str, FileEntry] | None = None,
    batch: int = BATCH,
    watch: Watch = lambda *_: None,
) -> Generator[FileEntry, None, None]:
    """Brings an index up to date with videos; yields each one that it read or failed to read.

    Videos that are as the index knows them are not embedded again; changed ones are, unreadable
    ones are tried again, and those that no longer exist are dropped. Those whose name is not UTF-8
    fail, and leave no trace: an index cannot hold them.

    Args:
        encode: embeds frames with the model. look: how the model sees a window (sampler, frames,
            transform).
        elsewhere: what the whole index knows, if this is a part of one.
        batch: how many windows the model embeds at once. watch: is told of the last of them.

    Raises:
        StoreError: the index cannot be written (what was written before is whole), one of the
            paths is a folder that is gone with all the videos that the index has from it, or its
            relative paths start in another folder.
    """
    yield from (
        FileEntry(path, 0, 0, error=f"its name {wrong}")
        for path in paths
        if (wrong := wrong_characters(path))
    )
    paths = [path for path in paths if not wrong_characters(path)]
    own = store.entries()
    _refuse_elsewhere(store, own, paths)
    _refuse_gone(paths, own)
    store.drop_unfinished()
    store.drop([path for path in own if not os.path.exists(path)])
    known = {**(elsewhere or {}), **own}
    changed = [entry for entry in map(_entry_of, paths) if not _is_known(store, entry, known)]
    with contextlib.closing(_embedded(changed, encode, look, rule, batch, watch)) as found:
        yield from _written(store, found)
    store.compact()


def _refuse_elsewhere(store: Store, own: Iterable[str], paths: Sequence[str]) -> None:
    """Raises StoreError where relative paths mean other files than in the index, or none: its
    videos would be dropped."""
    known, given = ([p for p in some if not os.path.isabs(p)] for some in (own, paths))
    relative = next(iter((*known, *given)), "")
    if not relative:
        return
    gone = known and not any(os.path.exists(os.path.dirname(path) or ".") for path in known)
    if gone or store.located(relative) != relative:
        raise StoreError(
            f"{store.uri} was made in {store.about.folder or 'another folder'}, where relative "
            f"paths such as {relative} start; run the command there"
        )


def _refuse_gone(paths: Sequence[str], known: Iterable[str]) -> None:
    """Raises StoreError for a folder that is gone: its videos would all be dropped."""
    for path in paths:
        if not os.path.exists(path):
            below = sum(each.startswith(os.path.join(path, "")) for each in known)
            if below:
                raise StoreError(
                    f"{path} is gone, with {below:,} videos of this index, which stay in it; is "
                    "its disk there? Called without this name, the command drops what is gone"
                )


def _entry_of(path: str) -> FileEntry:
    try:
        found = os.stat(path)
    except OSError:
        return FileEntry(path, 0, 0)  # reading it tells what is wrong
    return FileEntry(path, found.st_size, found.st_mtime_ns)


def _is_known(store: Store, entry: FileEntry, known: dict[str, FileEntry]) -> bool:
    """Whether a file is unchanged, by its size and time, or else by its bytes."""
    before = known.get(entry.path)
    if before is None or before.error or entry.size != before.size:
        return False
    if entry.mtime_ns == before.mtime_ns:
        return True
    with contextlib.suppress(VideoError):
        if sha256_of(entry.path) == before.sha256:
            store.update(dataclasses.replace(before, mtime_ns=entry.mtime_ns))
            return True
    return False


def _written(
    store: Store, found: Iterable[tuple[FileEntry, Windows]]
) -> Generator[FileEntry, None, None]:
    """Yields videos once they are written, several at a time."""
    waiting: list[tuple[FileEntry, Windows]] = []
    written = time.monotonic()
    for each in found:
        waiting.append(each)
        if time.monotonic() - written > WRITE_EVERY:
            yield from _write(store, waiting)
            waiting, written = [], time.monotonic()
    yield from _write(store, waiting)


def _write(store: Store, found: Sequence[tuple[FileEntry, Windows]]) -> list[FileEntry]:
    entries = [entry for entry, _ in found]
    store.drop([entry.path for entry in entries])
    store.add(entries, Windows.joined([windows for _, windows in found if len(windows)]))
    return entries


def _embedded(
    entries: Sequence[FileEntry],
    encode: Encode,
    look: ClipRequest,
    rule: WindowRule,
    batch: int,
    watch: Watch,
) -> Generator[tuple[FileEntry, Windows], None, None]:
    """Yields each video with its windows; with none, and the reason, if it cannot be read."""
    with (
        DecoderPool(WORKERS, TIMEOUT, SPAN_WORKER) as pool,
        contextlib.closing(read_windows(pool, entries, look, rule)) as windows,
    ):
        vectors = _encoded(windows, encode, batch, watch)
        for _, group in itertools.groupby(vectors, key=lambda each: each[0].path):
            yield _gathered(list(group))


def read_windows(
    pool: DecoderPool, entries: Sequence[FileEntry], look: ClipRequest, rule: WindowRule
) -> Generator[Window, None, None]:
    """Yields the windows of all files, reading up to `BATCH` windows of a file at once."""
    asked: list[FileEntry] = []  # the file of each request, in order
    failed: list[Window] = []

    def requests() -> Iterator[SpansRequest]:
        for entry, spans in _planned(pool, entries, look, rule):
            if isinstance(spans, VideoError):
                failed.append(Window(entry, (0.0, 0.0), spans))
                continue
            for at in range(0, len(spans), BATCH):
                asked.append(entry)
                yield _spans_request(look, entry.path, spans[at : at + BATCH], spans[at + BATCH :])

    with contextlib.closing(read_ahead(pool, requests(), 2 * WORKERS)) as batches:
        for batch, answers in batches:
            for request, answer in zip(batch, answers, strict=True):
                yield from _windows_of(asked.pop(0), request.spans, answer)
    yield from failed


def _planned(
    pool: DecoderPool, entries: Sequence[FileEntry], look: ClipRequest, rule: WindowRule
) -> Iterator[tuple[FileEntry, Sequence[Span] | VideoError]]:
    """Yields each file with its windows, or with the reason that it cannot be scanned."""
    asked = [TimelineRequest(e.path, rule.kind == "shots", look.allow_truncated) for e in entries]
    with contextlib.closing(read_ahead(pool, asked, 2 * WORKERS)) as batches:
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
    fields = {field.name: getattr(look, field.name) for field in dataclasses.fields(look)}
    end = max(stop for _, stop in spans)
    later = list(itertools.takewhile(lambda span: span[0] < end, rest))
    return SpansRequest(**(fields | {"path": path}), spans=list(spans), later=later)


def _windows_of(
    entry: FileEntry, spans: Sequence[Span], answer: np.ndarray | VideoError
) -> Iterator[Window]:
    if isinstance(answer, VideoError):
        yield Window(entry, spans[0], answer)
    else:
        yield from (Window(entry, *each) for each in zip(spans, answer, strict=True))


def _encoded(
    windows: Iterable[Window], encode: Encode, size: int, watch: Watch
) -> Iterator[tuple[FileEntry, Span, np.ndarray | VideoError]]:
    """Yields windows with their vectors in place of their clips, of which a long video has more
    than fit in memory."""
    remaining = iter(windows)
    while batch := list(itertools.islice(remaining, size)):
        clips = [window.clip for window in batch]
        vectors = map_readable(lambda frames: list(encode(frames)), clips, size)
        watch(batch[-1].entry, batch[-1].span)
        for window, vector in zip(batch, vectors, strict=True):
            yield window.entry, window.span, vector


def _gathered(
    found: Sequence[tuple[FileEntry, Span, np.ndarray | VideoError]],
) -> tuple[FileEntry, Windows]:
    entry = found[0][0]
    errors = [x for *_, x in found if isinstance(x, VideoError)]
    if errors:
        return dataclasses.replace(entry, windows=0, error=errors[0].reason), Windows()
    spans = np.array([span for _, span, _ in found])
    paths = np.full(len(found), entry.path, object)
    return entry, Windows(paths, spans, np.stack([np.asarray(x) for *_, x in found]))
