"""`vlt.index(...)`: an index as a searchable object."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from vlt.indexing.neighbours import Neighbours, neighbours
from vlt.indexing.search import Found, best_ranges
from vlt.indexing.store import Store, StoreError


class QueryError(ValueError):
    """A text that cannot be a query: it has no words, or too many."""


class Index:
    """An index with the model that made it.

    Args:
        uri: a folder, or a store such as s3://bucket/name.
        model: a dual encoder or a retriever, as `vlt.load` returns it.
        way: how windows are found: `exact` compares all of them in memory; `graph` finds nearly all
            of the nearest without reading the others; `auto` chooses by how many there are.
        reading: returns the windows' `Neighbours`, if those are already being read while the model
            loads.

    Raises:
        StoreError: there is no index, or it is of another model.
    """

    def __init__(
        self,
        uri: str,
        model: Any,
        way: str = "auto",
        reading: Callable[[], Neighbours] | None = None,
    ):
        self.store, self.model = Store(str(uri)), model
        self._read = reading or (lambda: neighbours(self.store, way))
        told = self.store.about
        if told.fingerprint != model.fingerprint:
            raise StoreError(
                f"{uri} is an index of {told.model} (fingerprint {told.fingerprint}), and this "
                f"model's fingerprint is {model.fingerprint}"
            )

    def __len__(self) -> int:
        return self._count

    def search(self, query: Any, top: int = 10, where: str = "") -> list[Found]:
        """Finds time ranges that show what a text describes or a clip shows, best first.

        Args:
            query: a text, or frames [t, H, W, 3] or [1, t, H, W, 3].
            top: how many ranges.
            where: an SQL condition on `path`, `start` and `end`: "path LIKE 'trip/%'".

        Raises:
            StoreError: an empty index, or an invalid condition.
            QueryError: a text without words, or one longer than the model reads.
            ValueError: a query that is neither text nor frames.
        """
        if not len(self):
            raise StoreError(f"{self.store.uri} has no video; `vlt embed VIDEO...` adds some")
        return self._best(self.vector(query), top, where)

    def like(self, path: str, at: float, top: int = 10, where: str = "") -> list[Found]:
        """Finds ranges of other videos that look like what a video shows `at` seconds into it.

        Raises:
            StoreError: the video is not in the index, or the condition is invalid.
        """
        shown = self._neighbours.of_video(path)
        if not len(shown):
            raise StoreError(f"{path} is not in {self.store.uri}")
        nearest = np.abs(shown.spans.mean(1) - at).argmin()
        return self._best(shown.vectors[nearest], top, where, without=path)

    def _best(self, vector: np.ndarray, top: int, where: str, without: str = "") -> list[Found]:
        windows, scores, usual = self._neighbours.near(vector, top, where, without)
        return best_ranges(windows, scores, top, usual)

    def vector(self, query: Any) -> np.ndarray:
        """The unit vector [e] of a query."""
        if isinstance(query, str):
            if not query.strip():
                raise QueryError("a query without words")
            context, words = self.model.module.longest_text, self.model.words(query)
            if words > context:
                raise QueryError(
                    f"a query of {words:,} tokens, {query[:40]!r}...; the model reads {context}"
                )
            return np.asarray(self.model.encode_text(query))[0]
        frames = np.asarray(query)
        return np.asarray(self.model.encode_video(frames[None] if frames.ndim == 4 else frames))[0]

    @functools.cached_property
    def _count(self) -> int:
        return self.store.count()

    @functools.cached_property
    def _neighbours(self) -> Neighbours:
        return self._read()
