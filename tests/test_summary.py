"""The end of a comparison: pictures from what runs wrote, and where everything is."""

import json
import os

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from vlt import summary
from vlt.reporting.strips import Choice


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A frozen and a trained row, in the folders of a workdir."""
    monkeypatch.setattr(summary, "read_clip", lambda request: np.zeros((8, 32, 32, 3), np.uint8))
    section = {
        "kind": "twins", "sampler": {"name": "linspace", "frames": 8}, "transform": {},
        "backend": "pyav", "allow_truncated": False,
    }  # fmt: skip
    found = []
    for title, steps in (("frozen", 0), ("worse", 10), ("trained", 20)):
        folder = tmp_path / title
        folder.mkdir()
        entries = [{"step": step, "loss": 1.0 / step} for step in range(10, steps + 1, 10)]
        entries.append({"step": steps, "twins/twins_v2t": 50.0 + steps})
        lines = "".join(json.dumps(entry) + "\n" for entry in entries)
        (folder / "metrics.jsonl").write_text(lines)
        (folder / "run.json").write_text("{}")
        pair = {"videos": ["a", "b"], "captions": ["left", "right"], "scores": [[1, 0], [0, 1]]}
        (folder / "twins-twins.json").write_text(json.dumps([pair]))
        config = ConfigDict({"evals": {"twins": section}, "train": {"steps": steps}})
        found.append((title, folder, config))
    return found


def test_pictures_are_drawn_once_after_each_run(tmp_path, runs):
    files = summary.draw(tmp_path, runs)
    assert [file.name for file in files] == ["curves.png", "twins.png"]
    for file in files:
        with Image.open(file) as image:
            assert image.width > 400
        os.utime(file, (1e9, 1e9))  # older than the runs
    summary.draw(tmp_path, runs)
    times = [file.stat().st_mtime_ns for file in files]
    assert all(time > 1e18 for time in times), "drawn anew"
    assert summary.draw(tmp_path, runs) == files
    assert [file.stat().st_mtime_ns for file in files] == times


def test_what_runs_lack_is_not_drawn(tmp_path, runs):
    for _, folder, _ in runs:
        (folder / "twins-twins.json").unlink()
    assert [file.name for file in summary.draw(tmp_path, runs)] == ["curves.png"]


def test_closing_tells_where_things_are_and_how_to_go_on(tmp_path, runs):
    text = summary.closing("configs/btadapter.py", tmp_path, runs, summary.draw(tmp_path, runs))
    assert f"In {tmp_path}: results.md, curves.png, twins.png" in text
    assert f"Checkpoints: {tmp_path / 'trained' / 'checkpoints'}" in text
    assert f"python -m vlt.export --workdir={tmp_path / 'trained'} {tmp_path}-model" in text
    assert f"--config.seed=1 --workdir={tmp_path}-seed1" in text
    assert text.endswith("  python -m vlt.main --config=configs/tempme.py")


def test_without_twins_the_last_trained_row_is_the_one_to_go_on_with(tmp_path, runs):
    frozen, *trained = runs
    for _, _, config in runs:
        config.evals = {}
    text = summary.closing("configs/msta.py", tmp_path, [*reversed(trained), frozen], [])
    assert f"Checkpoints: {tmp_path / 'worse' / 'checkpoints'}" in text


def test_another_seed_is_not_advised_where_rows_have_several(tmp_path, runs):
    runs = [(title, folder / "seed-0", config) for title, folder, config in runs]
    text = summary.closing("configs/msta.py", tmp_path / "a b", runs, [])
    assert "seed1" not in text and f"'{tmp_path}/a b-model'" in text


@pytest.mark.parametrize(
    ("score", "other", "expected"),
    [
        (0.3, 0.2, Choice("M", "own", True)),
        (0.2, 0.3, Choice("M", "other", False)),
        (0.2, 0.200005, Choice("M", "cannot tell the two captions apart", None)),
    ],
)
def test_choices_are_by_score_and_ties_are_none(score, other, expected):
    assert summary.chosen("M", score, other, "own", "other") == expected
