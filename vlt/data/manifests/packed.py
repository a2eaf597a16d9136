"""Manifests of millions of rows, which are read only when they are needed.

`NAME.array_record`, as `python -m data_pipelines.pack` writes it, holds one JSON record per row, in
the order of the manifest that it was made from. Opening one takes no longer for more rows. An error
in a row is reported when the row is read, since only then is it looked at.
"""

import functools
import json
import os
import pathlib
import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, overload

import numpy as np

from vlt.data.manifests.manifest import ManifestError, Record, read_manifest, record_of
from vlt.data.text.text_files import parse_json

SUFFIX = ".array_record"
HELD = 4096  # rows, or values made from them, that are cached
# Rows are compressed in groups of this size: opening reads an index entry for each group, and 10
# million entries would take seconds and hundreds of megabytes.
OPTIONS = "group_size:64"
READ_AT_ONCE = 1 << 15  # bytes

T = TypeVar("T")


def open_manifest(path: pathlib.Path, check_videos: bool) -> Sequence[Record]:
    """The rows of a manifest, packed or not.

    check_videos: whether every video file must exist now; in a packed one none is checked.

    Raises:
        ManifestError: as `read_manifest`, or as `PackedRecords`.
    """
    return PackedRecords(path) if path.suffix == SUFFIX else read_manifest(path, check_videos)


class PackedRecords(Sequence[Record]):
    """The rows of a packed manifest."""

    def __init__(self, path: str | os.PathLike[str]):
        """
        Raises:
            ManifestError: there is no such file, or it is damaged, holds no rows, or holds rows
                with labels, which must all be known before the first step.
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
        """A name that tells these rows from others: the same for the same rows."""
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
    """The columns in which a row says something about its video."""
    values = {
        "`caption`": record.captions,
        "`question`": record.question,
        "`label`": record.label,
        "`conversations`": record.turns,
    }
    return [name for name, value in values.items() if value]


def _opened(path: pathlib.Path) -> Any:
    """ArrayRecord's own reader: grain's opens a file twice and requires a group for each row."""
    from array_record.python.array_record_module import ArrayRecordReader

    if not path.is_file():
        raise ManifestError(path, "there is no such file")
    try:
        options = "readahead_buffer_size:0"  # since rows are read in any order
        reader = ArrayRecordReader(str(path), options, file_reader_buffer_size=READ_AT_ONCE)
    except (RuntimeError, OSError, ValueError) as error:
        raise ManifestError(path, f"cannot be opened: {error}") from None
    if not reader.ok():
        raise ManifestError(path, "cannot be opened: no ArrayRecord file, or a damaged one")
    return reader


class WhenAsked(Sequence[T]):
    """The values of a function for indices 0 to `count` - 1, each computed when asked for."""

    def __init__(self, count: int, function: Callable[[int], T]):
        self._count, self._function = count, functools.lru_cache(HELD)(function)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self._function(int(index))


def number_of(video: str) -> int:
    """An int32 that is equal for rows that name one video, and almost never for others."""
    return int(np.int32(np.uint32(zlib.crc32(os.path.normpath(video).encode(errors="replace")))))


def packed_row(row: dict[str, Any]) -> bytes:
    """A row as it is stored."""
    return json.dumps(row, ensure_ascii=False).encode()
