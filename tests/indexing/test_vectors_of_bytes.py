"""Index vectors stored as bytes."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("lancedb")

from vlt.bench.search import make_index
from vlt.indexing.neighbours import Compared, chosen, neighbours, prepare
from vlt.indexing.rows import BYTES, kept
from vlt.indexing.store import StoreError

WINDOWS, WIDTH = 500, 256


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Indices of the same windows, by number type."""
    folder = tmp_path_factory.mktemp("indices")
    return {
        x: make_index(str(folder / x), WINDOWS, WIDTH, x) for x in ("float32", "float16", BYTES)
    }


def test_they_are_unit_vectors_as_near_as_rounding_leaves_them(stores):
    exact, read = (stores[name].read().vectors for name in ("float32", BYTES))
    np.testing.assert_allclose(np.linalg.norm(read, axis=-1), 1, rtol=1e-6)
    # At most half a step in every number, and as much again from normalising the length to 1.
    most = np.sqrt(WIDTH) * np.abs(exact).max(-1) / 127
    assert (np.linalg.norm(read - exact, axis=-1) <= most).all()
    assert np.linalg.norm(read - exact, axis=-1).mean() > 1e-3, "they were not rounded"


def test_what_was_read_is_kept_as_it_was(stores):
    """So joining shards and exporting lose nothing."""
    read = stores[BYTES].read().vectors
    once = kept(read, BYTES)
    assert once.dtype == np.int8 and (np.abs(once).max(-1) == 127).all()
    wide = np.float32(once)
    np.testing.assert_allclose(wide / np.linalg.norm(wide, axis=-1)[:, None], read, atol=1e-6)


def test_the_same_window_is_nearest(stores):
    found = {}
    for name, store in stores.items():
        windows, scores, _ = neighbours(store).near(stores["float32"].read().vectors[7], 5)
        best = scores.argmax()
        found[name] = windows.paths[best], windows.spans[best].tolist()
        assert scores[best] == pytest.approx(1, abs=2e-3)
    assert found[BYTES] == found["float16"] == found["float32"]


def test_they_are_half_as_large_and_only_compared(stores, tmp_path):
    assert stores[BYTES].about.dtype == BYTES
    bytes_, halves = (_vectors(stores[name]) for name in (BYTES, "float16"))
    assert bytes_ < 0.6 * halves
    assert chosen(stores[BYTES]) == "exact" and isinstance(neighbours(stores[BYTES]), Compared)
    for ask in (chosen, neighbours, prepare):
        with pytest.raises(StoreError, match="no graph is made of int8 vectors"):
            ask(stores[BYTES], "graph")


def _vectors(store) -> int:
    """The bytes that the windows take on disk."""
    folder = Path(store.uri) / "windows.lance/data"
    return sum(file.stat().st_size for file in folder.iterdir())
