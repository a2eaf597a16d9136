"""Evaluation is exact: padded last batch, any number of devices, broken videos reported."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from evaluation_kinds import inputs
from helpers import run_python

from vlt.data.text.captions import Cleaning
from vlt.evaluation import KINDS, Evaluator, retrieval

CODE = """
    import json, sys
    from pathlib import Path
    from vlt.configuration import load_config
    from vlt.training.loop import Run
    config = load_config("tests/loop_config.py")
    config.train.steps = 0
    config.evals.twins = dict(config.evals.looks) | {"kind": "twins", "min_pairs": 1}
    config.evals.captions = dict(config.evals.looks) | {"kind": "twin_captions", "min_pairs": 1}
    workdir = Path(sys.argv[1])
    workdir.mkdir()
    run = Run(config, workdir)
    print("RESULT", json.dumps(run.evaluate(0)))
    run.close()
"""


def evaluate(workdir, devices: int) -> dict:
    output = run_python(CODE, workdir, devices=devices, timeout=300)
    return json.loads(output.partition("RESULT")[2])


@pytest.mark.slow
def test_one_device_and_eight_give_the_same_metrics(tmp_path):
    """12 clips in batches of 8: the last batch is half padding."""
    one, eight = (evaluate(tmp_path / str(n), n) for n in (1, 8))
    assert one.keys() == eight.keys()
    for name, value in one.items():
        assert eight[name] == (value if isinstance(value, str) else pytest.approx(value, abs=1e-4))
    assert one["twins/pairs"] == 6 and one["looks/protocol"] == "moving_shapes"


def test_pair_of_an_unread_video_is_left_out_and_the_others_stay_aligned(tmp_path, monkeypatch):
    """Each video's embedding equals its own caption's, and record 3 cannot be read."""
    read = np.array([0, 1, 2, 4, 5, 6, 7])
    monkeypatch.setattr(retrieval, "embed_videos", lambda *_: (read, np.eye(8)[read]))
    monkeypatch.setattr(retrieval, "embed_texts", lambda *_: np.eye(8))
    record = SimpleNamespace
    records = [
        record(
            captions=(f"clip {i}",),
            line=i + 1,
            extra={"pair": i // 2, "family": "size"},
            video=f"{i}.mov",
        )
        for i in range(8)
    ]
    data = SimpleNamespace(
        records=records, manifest=tmp_path / "manifest.jsonl", name="twins", clean=Cleaning()
    )
    cosines = SimpleNamespace(scores_pairs=False)
    predictor = SimpleNamespace(writes=True, workdir=tmp_path, module=cosines)
    found = retrieval.twins(predictor, None, {"min_pairs": 1}, data, 0)
    assert (found["twins_v2t"], found["twins_t2v"], found["pairs"]) == (100.0, 100.0, 3)
    written = json.loads((tmp_path / "twins-twins.json").read_text())
    assert [pair["videos"] for pair in written] == [[f"{i}.mov", f"{i + 1}.mov"] for i in (0, 4, 6)]
    assert written[1]["captions"] == ["clip 4", "clip 5"]
    assert all(pair["scores"] == [[1.0, 0.0], [0.0, 1.0]] for pair in written)


def test_skipped_videos_are_counted_even_where_there_are_none(monkeypatch):
    """A repeat that skipped some is then averaged with one that skipped none."""
    monkeypatch.setitem(KINDS, "twins", KINDS["twins"]._replace(run=lambda *_: {"pairs": 3}))
    evaluator = object.__new__(Evaluator)
    evaluator._predictor = None
    evaluator._data = {
        name: ({"kind": "twins", "on_error": on_error}, SimpleNamespace(skipped=ids))
        for name, on_error, ids in (
            ("a", "skip", ["v", "w"]),
            ("b", "skip", []),
            ("c", "raise", []),
        )
    }
    found = evaluator({}, 0)
    assert found == {"a/pairs": 3, "a/skipped": 2, "b/pairs": 3, "b/skipped": 0, "c/pairs": 3}


@pytest.mark.slow
def test_what_an_evaluation_will_find_is_known_before(tmp_path):
    for kind, (predictor, params, section, data) in inputs(tmp_path, devices=1).items():
        names = KINDS[kind].check(section, data)
        found = KINDS[kind].run(predictor, params, section, data, 0)
        numbers = {name for name, value in found.items() if not isinstance(value, str)}
        assert numbers == set(names), kind
