"""What an index holds, as arrays and as rows of pyarrow tables."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

FORMAT = 1
UNFINISHED = "not all of its windows are embedded yet"  # error of a video that a run has begun
BYTES = "int8"  # dtype of vectors as integers up to 127, each scaled by its largest value
DTYPES = {8: BYTES, 16: "float16", 32: "float32"}  # by their bits
THREADS = 4  # to widen vectors

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class About:
    """What an index was made with; whatever is added to it must be made with the same.

    model: the folder, as it was given. fingerprint: identifies its weights and how it
    computes. sampler, frames, transform: what the model sees of a window. window, length, stride:
    the fields of a `WindowRule`. dtype: dtype of the vectors. format: version of this record.
    folder: where relative paths start.
    """

    model: str
    fingerprint: str
    embed_dim: int
    sampler: str
    frames: int
    transform: dict[str, Any]
    window: str
    length: float
    stride: float
    dtype: str = "float16"
    format: int = FORMAT
    folder: str = ""


@dataclasses.dataclass(frozen=True)
class FileEntry:
    """A video of an index. error: why it cannot be read, and then has no windows, or ''."""

    path: str
    size: int
    mtime_ns: int
    sha256: str = ""
    duration: float = 0.0
    windows: int = 0
    error: str = ""


@dataclasses.dataclass(frozen=True)
class Windows:
    """Windows of an index: paths [n], spans float64 [n, 2] in seconds, unit vectors [n, e]."""

    paths: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, object))
    spans: np.ndarray = dataclasses.field(default_factory=lambda: np.empty((0, 2)))
    vectors: np.ndarray = dataclasses.field(default_factory=lambda: np.empty((0, 0)))

    def __len__(self) -> int:
        return len(self.paths)

    @functools.cached_property
    def rows_of(self) -> dict[str, np.ndarray]:
        """Rows of each video, in order of time."""
        number: dict[str, int] = {}
        video = np.fromiter((number.setdefault(x, len(number)) for x in self.paths), int)
        order = np.lexsort((self.spans[:, 0], video))
        edges = np.flatnonzero(np.diff(video[order])) + 1
        return dict(zip(number, np.split(order, edges), strict=True)) if number else {}

    def at(self, rows: np.ndarray) -> "Windows":
        """The windows at some rows, given by indices or by a mask."""
        return Windows(self.paths[rows], self.spans[rows], self.vectors[rows])

    def without(self, path: str) -> "Windows":
        """The windows of all other videos."""
        return self.at(self.paths != path)

    @classmethod
    def joined(cls, parts: Sequence["Windows"]) -> "Windows":
        """The windows of all parts; none for no parts."""
        if not parts:
            return cls()
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def windows_of(rows: Any, embed_dim: int) -> Windows:
    """Rows of the pyarrow table `windows` as arrays."""
    spans = [rows.column(name).to_numpy() for name in ("start", "end")]
    paths = np.asarray(rows.column("path").to_pylist(), object)
    return Windows(paths, np.stack(spans, -1), vectors_of(rows, embed_dim))


def vectors_of(rows: Any, embed_dim: int) -> np.ndarray:
    """The column `vector` of rows: float32 [n, e], widened by chunks, a few at once.

    `BYTES` vectors are scaled back to unit length.
    """
    found = np.empty((len(rows), embed_dim), np.float32)
    chunks = rows.column("vector").chunks
    ends = np.cumsum([len(chunk) for chunk in chunks], dtype=int)

    def widen(end: int, chunk: Any) -> None:
        flat = chunk.flatten().to_numpy(zero_copy_only=False)
        wide = found[end - len(chunk) : end]
        wide[:] = flat.reshape(-1, embed_dim)
        if flat.dtype == np.int8:
            wide /= np.linalg.norm(wide, axis=-1, keepdims=True)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(widen, ends.tolist(), chunks))
    return found


def kept(vectors: np.ndarray, dtype: str) -> np.ndarray:
    """Unit vectors [n, e] as an index keeps them."""
    if dtype != BYTES:
        return vectors.astype(dtype)
    wide = vectors.astype(np.float32)
    return np.rint(127 / np.abs(wide).max(-1, keepdims=True) * wide).astype(np.int8)


def window_rows(windows: Windows, schema: Any) -> Any:
    """A pyarrow table with the columns of `windows`."""
    import pyarrow as pa

    kind = schema.field("vector").type
    # Not by pyarrow's `to_pandas_dtype`, for which some of its versions import pandas.
    flat = kept(windows.vectors, DTYPES[kind.value_type.bit_width]).reshape(-1)
    columns = [
        pa.array(windows.paths.tolist(), pa.string()),
        pa.array(windows.spans[:, 0]),
        pa.array(windows.spans[:, 1]),
        pa.FixedSizeListArray.from_arrays(pa.array(flat), kind.list_size),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def file_rows(entries: Sequence[FileEntry]) -> Any:
    """A pyarrow table with the columns of `files`."""
    import pyarrow as pa

    kinds: dict[Any, Any] = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    fields = [(field.name, kinds[field.type]) for field in dataclasses.fields(FileEntry)]
    return pa.Table.from_pylist(
        [dataclasses.asdict(entry) for entry in entries], schema=pa.schema(fields)
    )


def in_parts(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yields up to `size` items at a time, in order."""
    for at in range(0, len(items), size):
        yield items[at : at + size]
