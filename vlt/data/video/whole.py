"""Checks whether a file's container is whole, by its structure: libav skips what is missing.

In the containers here every piece states its size, so where a piece does not begin at the end of
the one before, or the last one ends after the file, frames may be missing. Others are not checked.
"""

import contextlib
import mmap
from collections.abc import Iterator

import numpy as np

Bytes = bytes | mmap.mmap

_EBML, _SEGMENT, _CLUSTER, _TRACKS = 0x1A45DFA3, 0x18538067, 0x1F43B675, 0x1654AE6B
_TRACK_ENTRY, _TRACK_NUMBER, _SIMPLE_BLOCK, _BLOCK_GROUP, _BLOCK = 0xAE, 0xD7, 0xA3, 0xA0, 0xA1
_VOID, _CHECKSUM = 0xEC, 0xBF
# SeekHead, Info, Cues, Tags, Chapters, Attachments.
_IN_SEGMENT = {0x114D9B74, 0x1549A966, 0x1C53BB6B, 0x1254C367, 0x1043A770, 0x1941A469}
_IN_SEGMENT |= {_CLUSTER, _TRACKS, _VOID, _CHECKSUM}
_NUMBERS = {0xE7, 0xAB, 0xA7}  # Timestamp, PrevSize, Position
# And SilentTracks, EncryptedBlock.
_IN_CLUSTER = _NUMBERS | {0x5854, 0xAF, _SIMPLE_BLOCK, _BLOCK_GROUP, _VOID, _CHECKSUM}
# (size, place of the sync byte): plain; with a time stamp in front; with a checksum at the end.
_TRANSPORT_PACKETS = ((188, 0), (192, 4), (204, 0))
_SYNC = 0x47


class Break(Exception):
    """Where the structure stops making sense, in words."""


def find_break(path: str, content: bytes | None, container: str) -> str:
    """How the structure of a file shows that a part is missing or damaged; '' if it does not.

    content: bytes of a file that is not on disk, or None. container: libav's name for its format.
    """
    check = next((c for name, c in _CHECKS.items() if container.startswith(name)), None)
    if check is None:
        return ""
    with contextlib.ExitStack() as stack:
        data: Bytes | None = content
        if data is None:
            file = stack.enter_context(open(path, "rb"))
            data = stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        try:
            check(data)
        except Break as found:
            return str(found)
        except IndexError:
            return f"the file ends at byte {len(data)} in the middle of a header"
    return ""


def _ends_after(what: str, end: int, limit: int) -> Break:
    return Break(f"{what} ends at byte {end}, what holds it at byte {limit}")


def _check_mp4(data: Bytes) -> None:
    at, fragmented = 0, False
    while at + 8 <= len(data):
        size, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16])
        if size == 0:  # to the end of the file
            return
        if size < 8 or not kind.isalnum():
            if fragmented:
                raise Break(f"no box begins at byte {at}")
            return  # Garbage at the end; all frames are listed before it.
        fragmented |= kind == b"moof"
        if at + size > len(data):
            raise _ends_after(f"the box {kind.decode()!r}", at + size, len(data))
        at += size


def _check_matroska(data: Bytes) -> None:
    tracks: set[int] = set()
    for kind, start, end in _elements(data, 0, len(data)):
        if kind != _SEGMENT:
            continue
        for child, begin, stop in _elements(data, start, end, _IN_SEGMENT):
            if child == _TRACKS:
                tracks |= set(_track_numbers(data, begin, stop))
            elif child == _CLUSTER:
                _check_cluster(data, begin, stop, tracks)


def _track_numbers(data: Bytes, start: int, end: int) -> Iterator[int]:
    for kind, begin, stop in _elements(data, start, end):
        if kind == _TRACK_ENTRY:
            for field, first, last in _elements(data, begin, stop):
                if field == _TRACK_NUMBER:
                    yield int.from_bytes(data[first:last])


def _check_cluster(data: Bytes, start: int, end: int, tracks: set[int]) -> None:
    for kind, begin, stop in _elements(data, start, end, _IN_CLUSTER):
        if kind in _NUMBERS and stop - begin > 8:
            raise Break(f"the number at byte {begin} has {stop - begin} bytes")
        blocks = [(kind, begin, stop)] if kind == _SIMPLE_BLOCK else []
        if kind == _BLOCK_GROUP:
            blocks = [e for e in _elements(data, begin, stop) if e[0] == _BLOCK]
        for _, first, _ in blocks:
            track, _ = _number(data, first)
            if track not in tracks:
                raise Break(f"the block at byte {first} is of track {track}, which is not listed")


def _elements(
    data: Bytes, at: int, end: int, known: set[int] | None = None
) -> Iterator[tuple[int, int, int]]:
    """Id, start and end of the elements that fill data[at:end]. One of unknown size is the last: a
    segment that extends to the end, or another element, which is left out."""
    while at < end:
        width = 9 - data[at].bit_length()
        kind = int.from_bytes(data[at : at + width])
        size, start = _number(data, at + width)
        if width > 4 or (known and kind not in known):
            raise Break(f"no element of Matroska begins at byte {at}")
        if size is None:  # in a live stream: only ids tell its children from what follows
            if kind != _SEGMENT:
                return
            size = end - start
        if start + size > end:
            raise _ends_after(f"the element {kind:x}", start + size, end)
        yield kind, start, start + size
        at = start + size


def _number(data: Bytes, at: int) -> tuple[int | None, int]:
    """The number of variable length at a place, and its end; None for all ones, "unknown"."""
    width = 9 - data[at].bit_length()
    if width > 8:
        raise Break(f"no number of Matroska is at byte {at}")
    mask = (1 << 7 * width) - 1
    value = int.from_bytes(data[at : at + width]) & mask
    return None if value == mask else value, at + width


def _check_avi(data: Bytes) -> None:
    at, riffs, promised, pictures = 0, 0, 0, 0
    while data[at : at + 4] == b"RIFF":  # one, or several in large files
        end = at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")
        if end > len(data):
            raise _ends_after("the RIFF", end, len(data))
        for kind, start, _ in _chunks(data, at + 12, end):
            if kind == b"avih":
                promised = int.from_bytes(data[start + 16 : start + 20], "little")
            pictures += kind[2:] in (b"dc", b"db")
        at, riffs = end + end % 2, riffs + 1
    if riffs == 1 and pictures < promised:
        raise Break(f"it holds {pictures} pictures of {promised}")


def _chunks(data: Bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of the chunks that fill data[at:end], those of lists included."""
    while at + 8 <= end:
        kind, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if not kind.replace(b" ", b"").isalnum():
            raise Break(f"no chunk begins at byte {at}")
        if at + 8 + size > end:
            raise _ends_after(f"the chunk {kind.decode()!r}", at + 8 + size, end)
        yield kind, at + 8, at + 8 + size
        if kind == b"LIST" and data[at + 8 : at + 12] in (b"hdrl", b"movi", b"rec "):
            yield from _chunks(data, at + 12, at + 8 + size)
        at += 8 + size + size % 2


def _check_gif(data: Bytes) -> None:
    at = 13 + _color_table(data[10])
    while data[at] != 0x3B:
        if data[at] == 0x21:
            at = _skip_blocks(data, at + 2)
        elif data[at] == 0x2C:
            at = _skip_blocks(data, at + 11 + _color_table(data[at + 9]), even=True)
        else:
            raise Break(f"no block begins at byte {at}")


def _color_table(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _skip_blocks(data: Bytes, at: int, even: bool = False) -> int:
    """The end of a chain of blocks. even: whether all but the last must be as long as the
    first, as encoders write pictures; where one breaks off, another's bytes do not fit this."""
    first, last = data[at], data[at]
    while data[at]:
        if even and last != first:
            raise Break(f"the picture breaks off before byte {at}")
        last = data[at]
        at += 1 + last
    return at + 1


def _check_transport_stream(data: Bytes) -> None:
    for size, offset in _TRANSPORT_PACKETS:
        if data[offset] == data[size + offset] == _SYNC:
            lost = np.flatnonzero(np.frombuffer(data, np.uint8)[offset::size] != _SYNC)
            if len(lost):
                raise Break(f"no packet begins at byte {lost[0] * size}")
            if len(data) % size:
                raise Break(f"its last packet has {len(data) % size} of {size} bytes")
            return
    raise Break("no packet begins at its first byte")


_CHECKS = {
    "mov,": _check_mp4,
    "matroska,": _check_matroska,
    "avi": _check_avi,
    "gif": _check_gif,
    "mpegts": _check_transport_stream,
}
