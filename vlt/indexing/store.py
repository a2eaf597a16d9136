"""An index on disk or in an object store: tables of LanceDB, written so that no end loses a file.

`windows` has one row for each window of a video, `files` one for each video. A video's windows are
written before its row in `files`: windows whose video has none are what a killed run left, and go
when the index is next opened for writing.
"""

import contextlib
import dataclasses
import datetime
import functools
import json
import platform
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from vlt.pytrees.fields import from_values

FORMAT = 1
DTYPES = ("float16", "float32")
_KEY = b"vlt"


class StoreError(ValueError):
    """No index, one of another model or format, or one that cannot be written; in a sentence."""


@dataclasses.dataclass(frozen=True)
class About:
    """What an index was made by; what is added to it must be made by the same.

    model: the folder, as it was given. fingerprint: of its weights and sizes. sampler, frames,
    transform: what of a window the model sees. window, length, stride: a `WindowRule`'s fields.
    dtype: of the vectors. format: of this file.
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


@dataclasses.dataclass(frozen=True)
class FileEntry:
    """A video of an index. error: why it cannot be read, or ''; it has no windows then."""

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
        order = np.lexsort((self.spans[:, 0], self.paths.astype(str)))
        paths = self.paths[order]
        edges = np.flatnonzero(paths[1:] != paths[:-1]) + 1
        return {self.paths[rows[0]]: rows for rows in np.split(order, edges) if len(rows)}

    def without(self, path: str) -> "Windows":
        """Those of other videos."""
        others = self.paths != path
        return Windows(self.paths[others], self.spans[others], self.vectors[others])

    @classmethod
    def joined(cls, parts: Sequence["Windows"]) -> "Windows":
        """Those of several videos; none of no parts."""
        if not parts:
            return cls()
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


class Store:
    """An index that exists. Raises: StoreError where none does, or one of a newer format."""

    def __init__(self, uri: str):
        self.uri = uri
        self._database = _connect(uri)
        try:
            self.windows = self._database.open_table("windows")
            self.files = self._database.open_table("files")
            told = (self.windows.schema.metadata or {})[_KEY]
        except (ValueError, KeyError, FileNotFoundError, RuntimeError) as error:
            raise StoreError(f"{uri}: no index there; `vlt embed VIDEO... --out={uri}`") from error
        fields = json.loads(told)
        if fields.get("format", 0) > FORMAT:
            raise StoreError(
                f"{uri}: an index of format {fields['format']}; this version reads {FORMAT}"
            )
        self.about: About = from_values(About, fields, f"{uri}: about")

    @classmethod
    def open_or_create(cls, uri: str, about: About) -> "Store":
        """The index at `uri`, made where there is none.

        Raises:
            StoreError: one is there that was made otherwise; names what differs.
        """
        database = _connect(uri)
        if not database.list_tables().tables:
            _create(database, about)
        store = cls(uri)
        _check_same(uri, store.about, about)
        return store

    def entries(self) -> dict[str, FileEntry]:
        """Every video of the index by its path."""
        rows = self.files.to_arrow().to_pylist()
        return {row["path"]: FileEntry(**row) for row in rows}

    def add(self, entries: Sequence[FileEntry], windows: Windows) -> None:
        """Videos that are not in the index, with all of their windows."""
        with _told(self.uri):
            if len(windows):
                self.windows.add(window_rows(windows, self.windows.schema))
            if entries:
                self.files.add(_file_rows(entries))

    def update(self, entry: FileEntry) -> None:
        """Another row in `files` for a video whose windows stay."""
        with _told(self.uri):
            rows = self.files.merge_insert("path").when_matched_update_all()
            rows.execute(_file_rows([entry]))

    def drop(self, paths: Iterable[str]) -> None:
        """Takes videos away, rows of `files` first."""
        for some in _some(paths):
            with _told(self.uri):
                self.files.delete(_among(some))
                self.windows.delete(_among(some))

    def drop_unfinished(self) -> None:
        """Takes away what a killed run left of videos."""
        held = self.windows.search().select(["path"]).to_arrow().column("path").unique()
        self.drop(set(held.to_pylist()) - self.entries().keys())

    def compact(self) -> None:
        """Joins what many small writes left, and drops earlier versions."""
        with _told(self.uri), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that others may read earlier versions
            for table in (self.windows, self.files):
                table.optimize(cleanup_older_than=datetime.timedelta(0))

    def read(self, where: str = "") -> Windows:
        """Windows of which an SQL condition on `path`, `start` and `end` holds; all without one.

        Raises:
            StoreError: a condition that is none.
        """
        query = self.windows.search()
        try:
            rows = (query.where(where) if where else query).to_arrow()
        except (ValueError, RuntimeError, OSError) as error:
            raise StoreError(f"--where={where}: {str(error).splitlines()[0]}") from error
        return windows_of(rows, self.about.embed_dim)


@contextlib.contextmanager
def writing(uri: str) -> Iterator[None]:
    """Whoever else wants to write into an index on this machine's disk is refused meanwhile.

    Raises:
        StoreError: somebody writes into it already.
    """
    if "://" in uri:
        yield
        return
    Path(uri).mkdir(parents=True, exist_ok=True)
    lock = FileLock(Path(uri) / ".lock")
    try:
        with lock.acquire(timeout=0):
            yield
    except Timeout:
        raise StoreError(f"{uri}: another run writes into this index; wait for its end") from None


def windows_of(rows: Any, embed_dim: int) -> Windows:
    """Rows of the table `windows`, of pyarrow, as arrays."""
    vectors = rows.column("vector").combine_chunks()
    flat = vectors.flatten().to_numpy(zero_copy_only=False)
    spans = [rows.column(name).to_numpy() for name in ("start", "end")]
    paths = np.asarray(rows.column("path").to_pylist(), object)
    return Windows(paths, np.stack(spans, -1), flat.reshape(len(rows), embed_dim))


def _connect(uri: str) -> Any:
    try:
        import lancedb
    except ImportError as error:
        raise StoreError("an index needs LanceDB: pip install 'vlt[search]'") from error
    _check_cpu()
    return lancedb.connect(uri)


def _check_cpu() -> None:
    """Raises StoreError on an x86 without AVX2, where LanceDB ends the process without a word."""
    info = Path("/proc/cpuinfo")
    if platform.machine() in ("x86_64", "AMD64") and info.exists():
        flags = next((x for x in info.read_text().splitlines() if x.startswith("flags")), "avx2")
        if "avx2" not in flags.split():
            raise StoreError("LanceDB needs a processor with AVX2, which this one lacks")


def _create(database: Any, about: About) -> None:
    import pyarrow as pa

    kind = pa.float16() if about.dtype == "float16" else pa.float32()
    fields = [("path", pa.string()), ("start", pa.float64()), ("end", pa.float64())]
    vector = ("vector", pa.list_(kind, about.embed_dim))
    told = {_KEY: json.dumps(dataclasses.asdict(about)).encode()}
    database.create_table("files", schema=_file_rows([]).schema, exist_ok=True)
    database.create_table("windows", schema=pa.schema([*fields, vector], metadata=told))


def _check_same(uri: str, found: About, asked: About) -> None:
    if found.fingerprint != asked.fingerprint:
        raise StoreError(
            f"{uri} is an index of {found.model} (fingerprint {found.fingerprint}), and "
            f"{asked.model} is another model ({asked.fingerprint}); give another --out"
        )
    for field in dataclasses.fields(About):
        here, there = getattr(asked, field.name), getattr(found, field.name)
        if field.name != "model" and here != there:
            raise StoreError(
                f"{uri} was made with {field.name}={there!r}, not {here!r}; give the same, or "
                "another --out"
            )


def window_rows(windows: Windows, schema: Any) -> Any:
    """A table of pyarrow, with the columns of `windows`."""
    import pyarrow as pa

    kind = schema.field("vector").type
    flat = windows.vectors.astype(kind.value_type.to_pandas_dtype()).reshape(-1)
    columns = [
        pa.array(windows.paths.tolist(), pa.string()),
        pa.array(windows.spans[:, 0]),
        pa.array(windows.spans[:, 1]),
        pa.FixedSizeListArray.from_arrays(pa.array(flat), kind.list_size),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _file_rows(entries: Sequence[FileEntry]) -> Any:
    import pyarrow as pa

    kinds: dict[Any, Any] = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    fields = [(field.name, kinds[field.type]) for field in dataclasses.fields(FileEntry)]
    return pa.Table.from_pylist(
        [dataclasses.asdict(entry) for entry in entries], schema=pa.schema(fields)
    )


def _some(paths: Iterable[str], size: int = 500) -> Iterator[list[str]]:
    listed = list(paths)
    for at in range(0, len(listed), size):
        yield listed[at : at + size]


def _among(paths: Sequence[str]) -> str:
    """An SQL condition; a quote in a name is doubled."""
    return "path IN (" + ", ".join("'" + path.replace("'", "''") + "'" for path in paths) + ")"


@contextlib.contextmanager
def _told(uri: str) -> Iterator[None]:
    """What LanceDB says of a full disk or a store that is not writable, as a StoreError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise StoreError(
            f"{uri} cannot be written: {reason}; what was written before is whole"
        ) from error
