"""A graph finds nearly what comparing all windows does; the size decides which is used."""

import numpy as np
import pytest

pytest.importorskip("lancedb")

from vlt.indexing import neighbours
from vlt.indexing.neighbours import Compared, Graph, chosen, described, prepare
from vlt.indexing.rows import About, FileEntry, Windows
from vlt.indexing.search import best_ranges
from vlt.indexing.store import Store, StoreError

VIDEOS, EACH, WIDTH = 60, 10, 16
ABOUT = About("", "f", WIDTH, "linspace", 1, {}, "time", 2.0, 2.0)


def windows_of(path, seed):
    """Windows of a video, which resemble each other."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=WIDTH) + 0.3 * rng.normal(size=(EACH, WIDTH))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    starts = 2.0 * np.arange(EACH)
    return Windows(np.full(EACH, path, object), np.stack([starts, starts + 2], -1), vectors)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = Store.open_or_create(str(tmp_path_factory.mktemp("index")), ABOUT)
    paths = [f"{'trip' if i % 3 else 'home'}/{i}.mp4" for i in range(VIDEOS)]
    entries = [FileEntry(path, 1, 1, "", 20.0, EACH) for path in paths]
    store.add(entries, Windows.joined([windows_of(path, i) for i, path in enumerate(paths)]))
    prepare(store, "graph")
    return store


def found(way, vector, **options):
    windows, scores, usual = way.near(vector, 3, **options)
    return best_ranges(windows, scores, 3, usual)


def test_a_graph_finds_what_comparing_all_finds(store):
    compared, graph = Compared(store), Graph(store)
    assert store.in_graph() == VIDEOS * EACH
    for i in range(0, VIDEOS, 7):
        vector = compared.of_video(f"{'trip' if i % 3 else 'home'}/{i}.mp4").vectors[4]
        expected, here = found(compared, vector), found(graph, vector)
        assert [(x.path, x.start, x.end) for x in here] == [
            (x.path, x.start, x.end) for x in expected
        ]
        np.testing.assert_allclose(
            [(x.score, x.chance) for x in here], [(x.score, x.chance) for x in expected], atol=1e-3
        )
        others = found(graph, vector, where="path LIKE 'trip/%'", without=expected[0].path)
        assert expected[0].path not in {x.path for x in others}
        assert others == found(
            compared, vector, where="path LIKE 'trip/%'", without=expected[0].path
        )
    np.testing.assert_array_equal(graph.of_video("home/0.mp4").spans, windows_of("", 0).spans)
    with pytest.raises(StoreError, match="--where=nothing = 1"):
        graph.near(vector, 3, where="nothing = 1")


def test_windows_that_come_later_are_found_too(store):
    late = windows_of("late.mp4", 999)
    store.add([FileEntry("late.mp4", 1, 1, "", 20.0, EACH)], late)
    assert found(Graph(store), late.vectors[0])[0].path == "late.mp4"  # not in the graph yet
    store.compact()
    assert store.in_graph() == store.count() == (VIDEOS + 1) * EACH
    assert found(Graph(store), late.vectors[0])[0].path == "late.mp4"
    store.drop(["late.mp4"])
    assert found(Graph(store), late.vectors[0])[0].path != "late.mp4"
    store.compact()


def test_the_way_is_chosen_by_size_and_memory(store, monkeypatch):
    assert chosen(store) == "exact" and "600 windows, all compared" in described(store)
    assert "the nearest by a graph of 600 (HNSW)" in described(store, "graph")
    taken = 4 * store.count() * WIDTH
    monkeypatch.setattr(neighbours, "free_on_host", lambda: 2 * taken)
    assert chosen(store) == "exact"
    monkeypatch.setattr(neighbours, "free_on_host", lambda: 2 * taken - 2)
    assert chosen(store) == "graph" and chosen(store, "exact") == "exact"
    monkeypatch.setattr(neighbours, "free_on_host", lambda: None)
    monkeypatch.setattr(neighbours, "MOST_COMPARED", taken - 1)
    assert chosen(store) == "graph"
    prepare(store, "exact")
    assert not store.in_graph() and "all compared on disk" in described(store)
    vector = windows_of("", 3).vectors[0]  # by LanceDB's own scan
    assert found(Graph(store), vector)[0].path == "home/3.mp4"
    prepare(store)
    assert store.in_graph() == store.count()
