"""An index on disk or in an object store: LanceDB tables, written so that a kill loses no file.

`windows` has one row for each window of a video, `files` one for each video. A video's windows are
written before its row in `files`: windows whose video has no such row were left by a killed run,
and are dropped when the index is next updated. Those of a long video come in parts; its row says
so from the first to the last, and a run that is killed between them is continued.
"""

import contextlib
import dataclasses
import datetime
import itertools
import json
import os
import platform
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from vlt.indexing.rows import (
    FORMAT,
    About,
    FileEntry,
    Windows,
    file_rows,
    in_parts,
    vectors_of,
    window_rows,
    windows_of,
)
from vlt.pytrees.fields import from_values
from vlt.storage.places import is_absent, is_folder, no_index

GRAPH = "neighbours"  # name of the index in LanceDB
EDGES, BREADTH = 12, 100  # per node of the graph; candidates while it is built (m, ef_construction)
KEPT = 5  # times as many candidates as are asked for are kept while the graph is walked (ef)
NAMED_AT_ONCE = 500  # videos in one condition
_KEY = b"vlt"
_QUOTED = re.compile(r"""'[^']*'|"[^"]*"|`[^`]*`""")  # names and texts in SQL
_RUST = re.compile(r", /\S+\.rs:\d+:\d+$")  # where in its source LanceDB gave up
# What a server or the network said, within a print of LanceDB's own structures.
_SAID = (re.compile(r"<Message>(.*?)</Message>"), re.compile(r'message: "(.*?)"'))


class StoreError(ValueError):
    """No index, one of another model or format, or one that cannot be written; says which."""


class Store:
    """An index that exists, or a part of one that a shard wrote (vlt/indexing/parts.py).

    Raises: StoreError if there is none, it cannot be read, or its format is newer.
    """

    def __init__(self, uri: str, part: str = ""):
        self.uri, self.part = uri, part
        if is_absent(uri):  # connecting would make the folder
            raise StoreError(no_index(uri))
        database = _connect(uri)
        if f"windows{part}" not in _tables(uri, database):
            raise StoreError(no_index(uri))
        with _told(uri, "read"):
            self.windows = database.open_table(f"windows{part}")
            self.files = database.open_table(f"files{part}")
            told = (self.windows.schema.metadata or {}).get(_KEY)
        if told is None:
            raise StoreError(no_index(uri))
        fields = json.loads(told)
        if fields.get("format", 0) > FORMAT:
            raise StoreError(
                f"{uri}: an index of format {fields['format']}; this version reads {FORMAT}"
            )
        self.about: About = from_values(About, fields, f"{uri}: about")

    @classmethod
    def open_or_create(cls, uri: str, about: About, part: str = "") -> "Store":
        """Opens the index at `uri`, or creates it if there is none.

        Raises:
            StoreError: the index there was made differently; the message names what differs.
        """
        if f"windows{part}" not in tables_of(uri):
            _create(_connect(uri), about, part)
        store = cls(uri, part)
        check_same(uri, store.about, about)
        return store

    def located(self, path: str) -> str:
        """Where a video of the index is: relative paths start where it was embedded, or, on a
        machine that has no such folder, where the command runs."""
        folder = self.about.folder
        here = not os.path.isdir(folder) or os.path.samefile(folder, os.curdir)
        return path if here else os.path.join(folder, path)

    def marks(self) -> set[str]:
        """The words set as marks on the index."""
        with _told(self.uri, "read"):
            return set(self.files.tags.list())

    def mark(self, word: str, here: bool = True) -> None:
        """Sets a word as a mark on the index, or, with `here` False, removes it."""
        with _told(self.uri):
            if word in self.marks():
                self.files.tags.delete(word)
            if here:
                self.files.tags.create(word, self.files.version)

    def entries(self) -> dict[str, FileEntry]:
        """Every video of the index by its path."""
        with _told(self.uri, "read"):
            rows = self.files.to_arrow().to_pylist()
        return {row["path"]: FileEntry(**row) for row in rows}

    def add(self, entries: Sequence[FileEntry], windows: Windows) -> None:
        """Adds videos that are not in the index, with all of their windows."""
        with _told(self.uri):
            if len(windows):
                self.windows.add(window_rows(windows, self.windows.schema))
            if entries:
                self.files.add(file_rows(entries))

    def update(self, entry: FileEntry) -> None:
        """Replaces the row in `files` of a video whose windows stay."""
        with _told(self.uri):
            rows = self.files.merge_insert("path").when_matched_update_all()
            rows.execute(file_rows([entry]))

    def drop(self, paths: Iterable[str]) -> None:
        """Removes videos, their rows in `files` first."""
        for some in in_parts(list(paths), NAMED_AT_ONCE):
            with _told(self.uri):
                self.files.delete(_among(some))
                self.windows.delete(_among(some))

    def drop_unfinished(self) -> None:
        """Removes the windows that a killed run left without a row in `files`."""
        with _told(self.uri, "read"):
            held = self.windows.search().select(["path"]).to_arrow().column("path").unique()
        self.drop(set(held.to_pylist()) - self.entries().keys())

    def compact(self) -> None:
        """Joins what many small writes left, and drops earlier versions."""
        with _told(self.uri), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # it warns of readers of old versions
            for table in (self.windows, self.files):
                table.optimize(cleanup_older_than=datetime.timedelta(0))

    def read(self, where: str = "") -> Windows:
        """Windows that meet an SQL condition on `path`, `start` and `end`; all without one.

        Raises:
            StoreError: an invalid condition.
        """
        return self._windows(self.windows.search(), _whole(where), where)

    def of_videos(self, paths: Sequence[str]) -> Windows:
        """Windows of some videos."""
        return self.read(_among(paths))

    def count(self) -> int:
        """The number of windows."""
        with _told(self.uri, "read"):
            return int(self.windows.count_rows())

    def sample(self, size: int) -> np.ndarray:
        """Vectors float32 [n, e] of about `size` windows, or all, in runs spread over the table."""
        count, run = self.count(), 100
        starts = np.linspace(0, max(0, count - run), max(1, size // run)).astype(int)
        rows = np.unique(starts[:, None] + np.arange(run))
        with _told(self.uri, "read"):
            taken = self.windows.take_offsets(rows[rows < count].tolist()).select(["vector"])
            return vectors_of(taken.to_arrow(), self.about.embed_dim)

    def nearest(
        self, vector: np.ndarray, count: int, where: str = "", without: str = ""
    ) -> Windows:
        """The `count` windows nearest to a vector, nearly all of them right, nearest first.

        Args:
            where: as in `read`. without: a video whose windows are left out.

        Raises:
            StoreError: an invalid condition.
        """
        others = f"NOT {_among([without])}" if without else ""
        condition = " AND ".join(filter(None, (_whole(where), others)))
        query = self.windows.search(vector.astype(np.float32), query_type="vector")
        # Those that are found are compared again by their stored vectors: a factor of 1.
        query = query.distance_type("cosine").refine_factor(1).ef(KEPT * count)
        return self._windows(query.limit(count), condition, where)

    def in_graph(self) -> int:
        """Number of windows in the graph; 0 if there is none."""
        with _told(self.uri, "read"):
            if not any("vector" in index.columns for index in self.windows.list_indices()):
                return 0
            return int(self.windows.index_stats(GRAPH).num_indexed_rows)

    def make_graph(self) -> None:
        """Makes the graph of all windows; `compact` adds those that come later."""
        from lancedb.index import BTree, HnswSq

        kind = HnswSq(distance_type="cosine", m=EDGES, ef_construction=BREADTH)
        with _told(self.uri):
            self.windows.create_index("vector", config=kind, name=GRAPH)
            self.windows.create_index("path", config=BTree())

    def drop_graph(self) -> None:
        """Drops the graph, and the index of paths beside it, if there are any."""
        for index in self.windows.list_indices():
            with _told(self.uri):
                self.windows.drop_index(index.name)

    def _windows(self, query: Any, condition: str, where: str) -> Windows:
        try:
            rows = (query.where(condition) if condition else query).to_arrow()
        except (ValueError, RuntimeError, OSError) as error:
            named = f"--where={where}" if where else f"{self.uri} cannot be read"
            raise StoreError(f"{named}: {_reason(error)}") from error
        return windows_of(rows, self.about.embed_dim)


def _whole(where: str) -> str:
    """A condition in parentheses, without which LanceDB ignores what follows a complete one.

    Raises:
        StoreError: it closes a parenthesis that it did not open.
    """
    signs = _QUOTED.sub("", where)
    depths = itertools.accumulate((sign == "(") - (sign == ")") for sign in signs)
    if min(depths, default=0) < 0:
        raise StoreError(f"--where={where}: closes a parenthesis that is not open")
    return f"({where})" if where else ""


@contextlib.contextmanager
def writing(uri: str, part: str = "") -> Iterator[None]:
    """Keeps all others from writing to an index, or to a part of one, on this machine's disk.

    Raises:
        StoreError: another process is writing to it already.
    """
    if not is_folder(uri):
        yield
        return
    Path(uri).mkdir(parents=True, exist_ok=True)
    lock = FileLock(Path(uri) / f".lock{part}")
    try:
        with lock.acquire(timeout=0):
            yield
    except Timeout:
        raise StoreError(f"{uri}: another run writes into this index; wait for its end") from None


def tables_of(uri: str) -> set[str]:
    """Names of all tables at `uri`."""
    return _tables(uri, _connect(uri))


def _tables(uri: str, database: Any) -> set[str]:
    names, page = set[str](), None
    while True:
        with _told(uri, "read"):
            found = database.list_tables(page_token=page)
        names |= set(found.tables)
        page = found.page_token
        if not page:
            return names


def remove(uri: str, part: str) -> None:
    """Removes a part's tables; `windows`, which tells that the part is there, goes last."""
    for name in ("files", "windows"):
        with _told(uri):
            _connect(uri).drop_table(f"{name}{part}", ignore_missing=True)


def _connect(uri: str) -> Any:
    try:
        import lancedb
    except ImportError as error:
        raise StoreError("an index needs LanceDB: pip install 'vlt[search]'") from error
    _check_cpu()
    with _told(uri, "read"):
        return lancedb.connect(uri)


def _check_cpu() -> None:
    """Raises StoreError on an x86 CPU without AVX2, where LanceDB ends the process silently."""
    info = Path("/proc/cpuinfo")
    if platform.machine() in ("x86_64", "AMD64") and info.exists():
        flags = next((x for x in info.read_text().splitlines() if x.startswith("flags")), "avx2")
        if "avx2" not in flags.split():
            raise StoreError("LanceDB needs a processor with AVX2, which this one lacks")


def _create(database: Any, about: About, part: str) -> None:
    import pyarrow as pa

    fields = [("path", pa.string()), ("start", pa.float64()), ("end", pa.float64())]
    vector = ("vector", pa.list_(getattr(pa, about.dtype)(), about.embed_dim))
    told = {_KEY: json.dumps(dataclasses.asdict(about)).encode()}
    database.create_table(f"files{part}", schema=file_rows([]).schema, exist_ok=True)
    database.create_table(f"windows{part}", schema=pa.schema([*fields, vector], metadata=told))


def check_same(uri: str, found: About, asked: About) -> None:
    """Raises StoreError, which says what differs, if an index was made differently."""
    if found.fingerprint != asked.fingerprint:
        raise StoreError(
            f"{uri} is an index of {found.model} (fingerprint {found.fingerprint}), and "
            f"{asked.model} is another model ({asked.fingerprint}); give another --out"
        )
    for field in dataclasses.fields(About):
        here, there = getattr(asked, field.name), getattr(found, field.name)
        if field.name not in ("model", "folder") and here != there:
            raise StoreError(
                f"{uri} was made with {field.name}={there!r}, not {here!r}; give the same, or "
                "another --out"
            )


def _among(paths: Sequence[str]) -> str:
    """An SQL condition that selects these paths; a quote in a name is doubled."""
    return "path IN (" + ", ".join("'" + path.replace("'", "''") + "'" for path in paths) + ")"


@contextlib.contextmanager
def _told(uri: str, done: str = "written") -> Iterator[None]:
    """Raises what LanceDB says of a full disk, or of a store that it cannot use, as a StoreError.

    done: written or read.
    """
    try:
        yield
    except StoreError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        whole = "; what was written before is whole" * (done == "written")
        raise StoreError(f"{uri} cannot be {done}: {_reason(error)}{whole}") from error


def _reason(error: Exception) -> str:
    """The first line of what LanceDB says, or what a server said, which is in there."""
    line = _RUST.sub("", (str(error).splitlines() or [""])[0])
    said = next((found for pattern in _SAID if (found := pattern.search(str(error)))), None)
    return said[1] if said else line
