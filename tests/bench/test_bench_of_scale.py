"""The large-scale benchmarks, on small numbers."""

import itertools
import json

import numpy as np
import pytest

from vlt.bench import manifest, metrics


@pytest.mark.slow
@pytest.mark.parametrize("ties", ["against", "published"])
def test_metrics_by_blocks_are_timed_and_equal(ties, capsys):
    metrics.main(["--number=3000", "--width=16", f"--ties={ties}", "--checked=2500", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["pairs"] == 9_000_000 and found["equal"] is True
    assert 0 < found["products_s"] < 60 and 0 < found["seconds"] < 60 and found["peak_gb"] > 0


def test_the_floor_is_the_time_of_some_products_for_as_many_as_there_are(monkeypatch):
    monkeypatch.setattr(metrics, "BLOCK", (2, 3))
    monkeypatch.setattr(metrics.time, "perf_counter", itertools.count(10.0, 4.0).__next__)
    # Two of four blocks, 10 of 20 products, take 4 seconds.
    assert metrics.floor(np.ones((4, 8)), np.ones((5, 8)), 2) == pytest.approx(4 * 20 / 10)


@pytest.mark.slow
def test_a_packed_manifest_starts_and_goes_on(tmp_path):
    found = manifest.bench(1000, str(tmp_path))
    assert found["same"] is True and 0 < found["peak_gb"] < 4
    assert min(found["start_s"], found["resume_s"]) > 0


@pytest.mark.slow
def test_embedding_is_beside_its_parts(tmp_path, capsys):
    pytest.importorskip("lancedb")
    from vlt.bench import embedding
    from vlt.data import moving_shapes

    videos = moving_shapes.generate(tmp_path / "clips", 2).parent / "videos"
    files = [str(path) for path in sorted(videos.iterdir())]
    embedding.main([*files, "--model=tiny_clip", "--window=1s", "--videos=6", "--rounds=1"])
    found = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert float(found["windows"]) >= 6
    assert float(found["together"]) < min(float(found["reading"]), float(found["tower"]))
    assert float(found["share"]) > 0
