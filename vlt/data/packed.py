"""Manifests of millions of rows, of which nothing is read before it is needed.

`NAME.array_record`, as `python -m data_pipelines.pack` writes it: a record (JSON) a row, in the
order of the manifest that it was made of. Opening one takes no longer for more rows. What is wrong
with a row is told when the row is read, since only then is it looked at.
"""

import functools
import json
import os
import pathlib
import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, overload

import numpy as np

from vlt.data.manifest import ManifestError, Record, read_manifest, record_of
from vlt.data.text_files import parse_json

SUFFIX = ".array_record"
HELD = 4096  # rows, or what was made of them, that are kept
# Rows are compressed so many together: opening reads a line of an index for each such group, of
# which 10 million would take seconds and hundreds of megabytes.
OPTIONS = "group_size:64"
READ_AT_ONCE = 1 << 15  # bytes

T = TypeVar("T")


def open_manifest(path: pathlib.Path, check_videos: bool) -> Sequence[Record]:
    """The rows of a manifest, packed or not.

    check_videos: whether every video file must be there now, which of packed ones is not asked.

    Raises:
        ManifestError: as `read_manifest`, or as `PackedRecords`.
    """
    return PackedRecords(path) if path.suffix == SUFFIX else read_manifest(path, check_videos)


class PackedRecords(Sequence[Record]):
    """The rows of such a file."""

    def __init__(self, path: str | os.PathLike[str]):
        """
        Raises:
            ManifestError: there is no such file, it is damaged, holds no rows, or rows with labels,
                which must all be known before the first step.
        """
        self.path = pathlib.Path(path)
        self._reader = _opened(self.path)
        self._record = functools.lru_cache(HELD)(self._read)
        if not len(self):
            raise ManifestError(self.path, "holds no rows")
        if self[0].label is not None:
            raise ManifestError(self.path, "has `label`; rows with labels cannot be packed")

    def __len__(self) -> int:
        return int(self._reader.num_records())

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._record(int(index))

    def name(self) -> str:
        """What tells them from others: the same for the same rows."""
        return f"{len(self)} rows, {self.path.stat().st_size} bytes, the last {self[len(self) - 1]}"

    def _read(self, index: int) -> Record:
        try:
            row = parse_json(self._reader.read([index])[0].decode())
        except (RuntimeError, ValueError) as error:
            raise ManifestError(self.path, f"is damaged: {error}", index + 1) from None
        if not isinstance(row, dict):
            raise ManifestError(self.path, "must be an object", index + 1)
        record = record_of(self.path, index + 1, row)
        if index and _said(record) != _said(self[0]):
            told = " and ".join(_said(self[0]))
            raise ManifestError(self.path, f"must have {told} alone, as the first row", index + 1)
        return record


def _said(record: Record) -> list[str]:
    """What a row says of its video."""
    values = {
        "`caption`": record.captions,
        "`question`": record.question,
        "`label`": record.label,
        "`conversations`": record.turns,
    }
    return [name for name, value in values.items() if value]


def _opened(path: pathlib.Path) -> Any:
    """A reader of ArrayRecord itself: grain's opens a file twice, and wants a group a row."""
    from array_record.python.array_record_module import ArrayRecordReader

    if not path.is_file():
        raise ManifestError(path, "there is no such file")
    try:
        options = "readahead_buffer_size:0"  # for rows in any order
        reader = ArrayRecordReader(str(path), options, file_reader_buffer_size=READ_AT_ONCE)
    except (RuntimeError, OSError, ValueError) as error:
        raise ManifestError(path, f"cannot be opened: {error}") from None
    if not reader.ok():
        raise ManifestError(path, "cannot be opened: no ArrayRecord file, or a damaged one")
    return reader


class WhenAsked(Sequence[T]):
    """What a function makes of each of so many indices, made when it is asked for."""

    def __init__(self, count: int, function: Callable[[int], T]):
        self._count, self._function = count, functools.lru_cache(HELD)(function)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self._function(int(index))


def number_of(video: str) -> int:
    """An int32 by which rows that name one video know each other, nearly always no others."""
    return int(np.int32(np.uint32(zlib.crc32(os.path.normpath(video).encode(errors="replace")))))


def packed_row(row: dict[str, Any]) -> bytes:
    """A row as it is stored."""
    return json.dumps(row, ensure_ascii=False).encode()
