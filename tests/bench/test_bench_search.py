"""The benchmark of large indices, on small ones."""

import json
from types import SimpleNamespace

import numpy as np
import pytest


def test_recall_is_of_the_ten_nearest(monkeypatch):
    pytest.importorskip("lancedb")  # takes two seconds, so not at collection
    from vlt.bench import search

    spans = np.stack([np.arange(20.0), np.arange(1.0, 21)], -1)
    every = search.Windows(np.array(["a.mp4"] * 20, object), spans, np.eye(20, dtype=np.float32))
    near = slice(3, 13)  # seven of the ten nearest, and three that are farther
    found = search.Windows(every.paths[near], spans[near], every.vectors[near])
    scores = np.linspace(1, 0, 20, dtype=np.float32)
    finder = SimpleNamespace(near=lambda query, number: (found, scores[near], None))
    monkeypatch.setattr(search, "Graph", lambda store: finder)
    store = SimpleNamespace(read=lambda: every)
    assert search.recall(store, scores[None]) == pytest.approx(0.7)


@pytest.mark.slow
def test_both_ways_are_measured(capsys, tmp_path):
    pytest.importorskip("lancedb")  # takes two seconds, so not at collection
    from vlt.bench import search

    arguments = ["--exact=1000", "--graph=2000", "--width=32", "--queries=10", "--json"]
    search.main([*arguments, f"--folder={tmp_path}"])
    found = json.loads(capsys.readouterr().out)
    assert found["exact"]["windows"] == 1000 and found["graph"]["windows"] == 2000
    assert found["graph"]["recall@10"] == pytest.approx(1, abs=0.03)
    assert found["graph"]["bytes_of_vectors"] > found["exact"]["bytes_of_vectors"] > 1
    assert all(each["p50_ms"] > 0 and 0 < each["cold_s"] < 60 for each in found.values())
