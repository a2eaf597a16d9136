"""Finds the windows of an index nearest to a vector: compares all in memory, or uses a graph.

A product with all vectors is exact and, up to `MOST_COMPARED` bytes of them, a matter of
milliseconds. Beyond that, reading them takes longer than anybody waits, and LanceDB's IVF_HNSW_SQ
(Malkov and Yashunin, HNSW) finds nearly all of the nearest without it: a graph over vectors rounded
to bytes, whose candidates are compared again by the stored vectors.
"""

from typing import Protocol

import numpy as np

from vlt.indexing.rows import BYTES, Windows
from vlt.indexing.search import Usual, scores_of
from vlt.indexing.store import Store, StoreError
from vlt.runtime.memory import free_on_host

WAYS = ("auto", "exact", "graph")
MOST_COMPARED = 1 << 29  # bytes of float32 vectors: 262,144 of 512 numbers
SAMPLE = 10_000  # windows from which the usual scores are estimated
NEAREST, EACH = 200, 20  # windows asked of a graph: at least, and for each wanted range


class Neighbours(Protocol):
    """Finds windows near to a vector."""

    def near(
        self, vector: np.ndarray, top: int, where: str = "", without: str = ""
    ) -> tuple[Windows, np.ndarray, Usual]:
        """Returns windows, at least the nearest ones, their scores, and the usual scores.

        Args:
            vector: a unit vector [e]. top: how many ranges are wanted.
            where: an SQL condition on windows. without: a video whose windows are left out.

        Raises:
            StoreError: an invalid condition.
        """

    def of_video(self, path: str) -> Windows:
        """The windows of a video; none if it is not in the index."""


class Compared:
    """All windows of an index, each compared with the vector."""

    def __init__(self, store: Store):
        self._store, self._windows = store, store.read()

    def near(
        self, vector: np.ndarray, top: int, where: str = "", without: str = ""
    ) -> tuple[Windows, np.ndarray, Usual]:
        every = scores_of(self._windows, vector)
        usual = Usual.of(every[:: 1 + len(every) // SAMPLE], len(every))
        if not where and not without:
            return self._windows, every, usual
        among = self._store.read(where) if where else self._windows
        among = among.without(without) if without else among
        return among, scores_of(among, vector), usual

    def of_video(self, path: str) -> Windows:
        return self._windows.at(self._windows.rows_of.get(path, np.empty(0, int)))


class Graph:
    """Windows as LanceDB finds them; ranges join only windows among the nearest."""

    def __init__(self, store: Store):
        self._store, self._count = store, store.count()
        self._sample = store.sample(SAMPLE)

    def near(
        self, vector: np.ndarray, top: int, where: str = "", without: str = ""
    ) -> tuple[Windows, np.ndarray, Usual]:
        count = max(NEAREST, EACH * top)
        windows = self._store.nearest(vector, count, where, without)
        usual = Usual.of(self._sample @ vector.astype(np.float32), self._count)
        return windows, scores_of(windows, vector), usual

    def of_video(self, path: str) -> Windows:
        return self._store.of_videos([path])


def chosen(store: Store, way: str = "auto") -> str:
    """`exact` or `graph`; `auto` chooses by the bytes of the vectors and those free in memory.

    Raises:
        StoreError: a graph of `BYTES` vectors is asked for, which LanceDB cannot make.
    """
    if store.about.dtype == BYTES:
        if way == "graph":
            raise StoreError(f"{store.uri}: no graph is made of {BYTES} vectors; all are compared")
        return "exact"
    if way != "auto":
        return way
    free = free_on_host()
    most = MOST_COMPARED if free is None else min(MOST_COMPARED, free // 2)
    return "exact" if 4 * store.count() * store.about.embed_dim <= most else "graph"


def neighbours(store: Store, way: str = "auto") -> Neighbours:
    """The `Neighbours` of an index. way: one of `WAYS`."""
    return Compared(store) if chosen(store, way) == "exact" else Graph(store)


def prepare(store: Store, way: str = "auto") -> None:
    """Makes the graph if windows are to be found by one, and drops it for `exact`."""
    if way == "exact":
        store.drop_graph()
    elif chosen(store, way) == "graph" and store.count() and not store.in_graph():
        store.make_graph()


def described(store: Store, way: str = "auto") -> str:
    """One line on how windows are found."""
    count = f"{store.uri}: {store.count():,} windows"
    if chosen(store, way) == "exact":
        return f"{count}, all compared"
    inside = store.in_graph()
    if not inside:
        return f"{count}, all compared on disk; `vlt embed --neighbours=graph` makes that fast"
    return f"{count}, the nearest by a graph of {inside:,} (HNSW)"
