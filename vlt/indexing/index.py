"""`vlt.index(...)`: an index as an object that is searched."""

import dataclasses
import functools
from typing import Any

import numpy as np

from vlt.indexing.search import Found, best_ranges, scores_of
from vlt.indexing.store import Store, StoreError, Windows


class Index:
    """An index with the model that made it.

    Args:
        uri: a folder, or a store such as s3://bucket/name.
        model: a dual encoder or a retriever, as `vlt.load` gives it.

    Raises:
        StoreError: no index there, or one of another model.
    """

    def __init__(self, uri: str, model: Any):
        self.store, self.model = Store(str(uri)), model
        told = self.store.about
        if told.fingerprint != model.fingerprint:
            raise StoreError(
                f"{uri} is an index of {told.model} (fingerprint {told.fingerprint}), and this "
                f"model's fingerprint is {model.fingerprint}"
            )

    def __len__(self) -> int:
        return len(self._windows)

    def search(self, query: Any, top: int = 10, where: str = "") -> list[Found]:
        """Ranges of time that show what a text tells, or what a clip shows, best first.

        Args:
            query: a text, or frames [t, H, W, 3] or [1, t, H, W, 3].
            top: how many.
            where: an SQL condition on `path`, `start` and `end`: "path LIKE 'trip/%'".

        Raises:
            StoreError: an empty index, or a condition that is none.
            ValueError: a query that is neither, or a text longer than the model reads.
        """
        if not len(self):
            raise StoreError(f"{self.store.uri} has no video; `vlt embed VIDEO...` adds some")
        vector = self.vector(query)
        usual = scores_of(self._windows, vector)
        if not where:
            return best_ranges(self._windows, usual, top)
        among = self.store.read(where)
        return best_ranges(among, scores_of(among, vector), top, usual)

    def like(self, path: str, at: float, top: int = 10, where: str = "") -> list[Found]:
        """Ranges of other videos that look like what a video shows at a time, in seconds.

        Raises:
            StoreError: the video is not in the index, or a condition that is none.
        """
        windows = self._windows
        rows = windows.rows_of.get(path)
        if rows is None:
            raise StoreError(f"{path} is not in {self.store.uri}")
        nearest = rows[np.abs(windows.spans[rows].mean(1) - at).argmin()]
        vector = windows.vectors[nearest]
        usual = scores_of(windows, vector)
        among = self.store.read(where) if where else windows
        among = among.without(path)
        return best_ranges(among, scores_of(among, vector), top, usual)

    def vector(self, query: Any) -> np.ndarray:
        """The unit vector [e] of a query."""
        if isinstance(query, str):
            context, words = self.model.module.longest_text, self.model.words(query)
            if words > context:
                raise ValueError(
                    f"a query of {words:,} tokens, {query[:40]!r}...; the model reads {context}"
                )
            return np.asarray(self.model.encode_text(query))[0]
        frames = np.asarray(query)
        return np.asarray(self.model.encode_video(frames[None] if frames.ndim == 4 else frames))[0]

    @functools.cached_property
    def _windows(self) -> Windows:
        """All of them; vectors are widened once, not for every query."""
        found = self.store.read()
        return dataclasses.replace(found, vectors=found.vectors.astype(np.float32))
