"""Evaluation is exact: padded last batch, any number of devices, broken videos told."""

import json
import os

import pytest
from helpers import run_python

CODE = """
    import json, sys
    from pathlib import Path
    from vlt.configuration import load_config
    from vlt.train import Run
    config = load_config("tests/loop_config.py")
    config.train.steps = 0
    config.evals.twins = dict(config.evals.looks) | {"kind": "twins", "min_pairs": 1}
    config.evals.captions = dict(config.evals.looks) | {"kind": "twin_captions", "min_pairs": 1}
    run = Run(config, Path(sys.argv[1]))
    print("RESULT", json.dumps(run.evaluate(0)))
    run.close()
"""


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("VLT_CACHE", str(tmp_path_factory.getbasetemp() / "evaluate"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["tests", os.environ.get("PYTHONPATH", "")]))


def evaluate(workdir, devices: int) -> dict:
    output = run_python(CODE, workdir, devices=devices, timeout=300)
    return json.loads(output.partition("RESULT")[2])


def test_one_device_and_eight_give_the_same_metrics(tmp_path):
    """12 clips in batches of 8: the last batch is half padding."""
    one, eight = (evaluate(tmp_path / str(n), n) for n in (1, 8))
    assert one.keys() == eight.keys()
    for name, value in one.items():
        assert eight[name] == (value if isinstance(value, str) else pytest.approx(value, abs=1e-4))
    assert one["twins/pairs"] == 6 and one["looks/protocol"] == "moving_shapes"
