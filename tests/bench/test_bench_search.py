"""The benchmark of large indices, on small ones."""

import json

import pytest


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
