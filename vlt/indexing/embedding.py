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
from vlt.data.video.clips import ClipRequest, DecoderPool, decoders
from vlt.data.video.errors import VideoError
from vlt.data.video.spans import SPAN_WORKER, Span
from vlt.indexing.reading import Begun, Window, held_of, read_windows
from vlt.indexing.rows import UNFINISHED, FileEntry, Windows
from vlt.indexing.store import Store, StoreError
from vlt.indexing.windows import WindowRule
from vlt.inference.batching import map_readable

BATCH = 8  # windows for each device
AT_ONCE = 64  # windows of a video that are written together, or more, where writing waits
TIMEOUT = 600.0  # seconds to scan a file, or to read some of its windows
WRITE_EVERY = 20.0  # seconds

Encode = Callable[[np.ndarray], np.ndarray]  # uint8 [b, t, h, w, 3] -> unit vectors [b, e]
Watch = Callable[[FileEntry, Span], None]
Embedded = tuple[FileEntry, Span, np.ndarray | VideoError]


@dataclasses.dataclass(frozen=True)
class Part:
    """Windows of a video in order of time: all of them, or a run of those of a long one.

    entry: as it is once all windows are in the index, or as it cannot be read. first, last: whether
    the video's first and last windows are among them.
    """

    entry: FileEntry
    windows: Windows
    first: bool
    last: bool


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
    ones are tried again, one that a killed run had begun is continued, and those that no longer
    exist are dropped. Those whose name is not UTF-8 fail, and leave no trace: an index cannot hold
    them.

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
    begun = _begun(store, own)
    known = {**(elsewhere or {}), **own}
    changed = [entry for entry in map(_entry_of, paths) if not _is_known(store, entry, known)]
    with contextlib.closing(_embedded(changed, encode, look, rule, batch, watch, begun)) as found:
        yield from _written(store, found)
    store.compact()


def _begun(store: Store, own: dict[str, FileEntry]) -> Begun:
    """Videos of which an earlier run wrote some windows; those that lack none are finished."""
    begun = {}
    for entry in [entry for entry in own.values() if entry.error == UNFINISHED]:
        held = len(store.of_videos([entry.path]))
        begun[entry.path] = (entry.sha256, held)
        if held == entry.windows:  # it was killed just before it could say so
            own[entry.path] = dataclasses.replace(entry, error="")
            store.update(own[entry.path])
    return begun


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


def _written(store: Store, parts: Iterable[Part]) -> Generator[FileEntry, None, None]:
    """Yields videos once all their windows are written, several at a time."""
    waiting: list[Part] = []
    written = time.monotonic()
    for each in parts:
        waiting.append(each)
        if time.monotonic() - written > WRITE_EVERY:
            yield from _write(store, waiting)
            waiting, written = [], time.monotonic()
    yield from _write(store, waiting)


def _write(store: Store, parts: Iterable[Part]) -> list[FileEntry]:
    """Writes parts of videos; returns the videos that are finished."""
    videos = [_joined(list(group)) for _, group in itertools.groupby(parts, _path_of)]
    new = [each for each in videos if _is_new(each)]
    store.drop([each.entry.path for each in new])
    rows = [
        each.entry if each.last else dataclasses.replace(each.entry, error=UNFINISHED)
        for each in new
    ]
    store.add(rows, Windows.joined([each.windows for each in videos if len(each.windows)]))
    for each in videos:
        if each.last and not _is_new(each):
            store.update(each.entry)
    return [each.entry for each in videos if each.last]


def _is_new(part: Part) -> bool:
    """Whether it replaces what the index has of the video."""
    return part.first or bool(part.entry.error)


def _path_of(part: Part) -> str:
    return part.entry.path


def _joined(parts: Sequence[Part]) -> Part:
    """Parts of one video as one."""
    last = parts[-1]
    if last.entry.error:
        return dataclasses.replace(last, first=parts[0].first)
    windows = Windows.joined([part.windows for part in parts])
    return Part(last.entry, windows, parts[0].first, last.last)


def _embedded(
    entries: Sequence[FileEntry],
    encode: Encode,
    look: ClipRequest,
    rule: WindowRule,
    batch: int,
    watch: Watch,
    begun: Begun,
) -> Generator[Part, None, None]:
    """Yields each video's windows, in parts; with none, and the reason, if it cannot be read."""
    with (
        DecoderPool(decoders(), TIMEOUT, SPAN_WORKER) as pool,
        contextlib.closing(read_windows(pool, entries, look, rule, begun)) as windows,
    ):
        vectors = _encoded(windows, encode, batch, watch)
        for _, group in itertools.groupby(vectors, key=lambda each: each[0].path):
            yield from _in_parts(group, begun)


def _encoded(
    windows: Iterable[Window], encode: Encode, size: int, watch: Watch
) -> Iterator[Embedded]:
    """Yields windows with their vectors in place of their clips, of which a long video has more
    than fit in memory."""
    remaining = iter(windows)
    while batch := list(itertools.islice(remaining, size)):
        clips = [window.clip for window in batch]
        vectors = map_readable(lambda frames: list(encode(frames)), clips, size)
        watch(batch[-1].entry, batch[-1].span)
        for window, vector in zip(batch, vectors, strict=True):
            yield window.entry, window.span, vector


def _in_parts(found: Iterator[Embedded], begun: Begun) -> Iterator[Part]:
    """Yields a video's windows a few at a time."""
    done: int | None = None
    while some := list(itertools.islice(found, AT_ONCE)):
        entry = some[0][0]
        done = held_of(entry, begun) if done is None else done
        errors = [x for *_, x in some if isinstance(x, VideoError)]
        if errors:
            entry = dataclasses.replace(entry, windows=0, error=errors[0].reason)
            yield Part(entry, Windows(), first=not done, last=True)
            return
        spans = np.array([span for _, span, _ in some])
        paths = np.full(len(some), entry.path, object)
        windows = Windows(paths, spans, np.stack([np.asarray(x) for *_, x in some]))
        yield Part(entry, windows, not done, done + len(some) == entry.windows)
        done += len(some)
