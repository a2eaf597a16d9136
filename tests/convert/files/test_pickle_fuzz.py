"""Hundreds of thousands of hostile pickles, each read or refused, and nothing else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import environment

_SCRIPT = Path(__file__).with_name("pickle_fuzz.py")


def _fuzz(folder: Path, seed: int, count: int) -> dict:
    done = subprocess.run(
        [sys.executable, _SCRIPT, folder, str(seed), str(count)],
        env=environment(1),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stderr[-6000:]}"
    assert {path.name for path in folder.iterdir()} <= {"case"}
    found = json.loads(done.stdout)
    assert found["read"] + found["ConversionError"] + found["UnsafePickleError"] == count
    # If all cases broke at their first byte, this would show little.
    assert found["read"] > count / 10
    assert found["opcodes not reached"] == []
    return found


def test_some_thousand_pickles(tmp_path: Path):
    _fuzz(tmp_path, 14, 5_000)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_hundred_thousand_pickles(tmp_path: Path, seed: int):
    assert _fuzz(tmp_path, seed, 100_000)["names not reached"] == []
