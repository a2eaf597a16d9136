"""The benchmarks' command lines answer mistakes with a sentence and a status, not a traceback."""

import importlib
import subprocess
import sys

import pytest
from helpers import ROOT, environment

from vlt.bench import door

NONE = "nowhere/v.mp4"


@pytest.mark.parametrize(
    ("module", "arguments", "status", "said"),
    [
        ("input", (), 2, "the following arguments are required: videos"),
        ("shards", (), 2, "the following arguments are required: videos"),
        ("damaged_videos", (), 2, "the following arguments are required: folder"),
        ("failures", (), 2, "the following arguments are required: --workdir"),
        ("slices", (), 2, "required: --config, --topology, --out"),
        ("generation", ("--batch=0",), 2, "--batch: '0': must be a whole number >= 1"),
        ("viclip", ("--rounds=no",), 2, "--rounds: 'no': must be a whole number >= 1"),
        ("mixing", ("--frames=-1",), 2, "--frames: '-1': must be a whole number >= 1"),
        ("input", (NONE, "--clips=1"), 1, NONE),
        ("shards", (NONE,), 1, NONE),
        ("damaged_videos", ("nowhere",), 1, "nowhere"),
        ("failures", ("--workdir=/",), 1, "error: /: File exists"),
        ("slices", ("--config=x.py", "--topology=v5e:2x4", "--out=o"), 1, "unknown config 'x.py'"),
        ("slices", ("--config=x.py", "--topology=v5e", "--out=o"), 1, "v5e:2x4"),
        ("embedding", (NONE, "--model=nowhere"), 1, "error: nowhere"),
    ],
)
def test_what_is_wrong_is_told(module, arguments, status, said, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises(SystemExit) as ended:
        door.tell(importlib.import_module(f"vlt.bench.{module}").main)
    message = capsys.readouterr().err if status == 2 else str(ended.value.code)
    assert said in message
    assert status == 2 or message.startswith("error: ")
    assert ended.value.code in (status, message)


def test_a_peer_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit, match="^error: the peer is torch.*pip install torch"):
        door.tell(lambda: importlib.import_module("torch"))


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("arguments", "said", "status"),
    [
        ((), "error: --config=NAME[:variant] is missing, such as python -m vlt.bench --config=", 2),
        (("--config=configs/btadapter.py:bensh",), "did you mean 'bench'", 2),
        (
            ("--config=configs/btadapter.py", "--against=x.py"),
            "error: unknown config 'x.py'",
            1,
        ),
        (("--config=configs/tempme.py", "--batch=0"), "--batch=0", 2),
    ],
)
def test_the_benchmark_of_a_config(arguments, said, status, tmp_path):
    command = [sys.executable, "-m", "vlt.bench", *arguments]
    env = environment(1)
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == status and said in done.stderr and "Traceback" not in done.stderr
    assert str(ROOT) not in done.stdout
