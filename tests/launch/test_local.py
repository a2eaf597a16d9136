"""N processes on one machine: their commands, their logs, and ending together."""

import os
import signal
import subprocess
import sys
import time

import pytest
from helpers import ROOT
from launching import complaint, planned, wait_for

from launch import local
from launch.commands import Command, LaunchError
from launch.local import run

TRAINING = ("--config=configs/btadapter.py:webvid_l14", "--workdir=runs/one")


def python(code: str) -> Command:
    return Command((sys.executable, "-u", "-c", code))


def test_processes_are_told_of_each_other(monkeypatch, capsys):
    commands = planned(monkeypatch, capsys, "local", "--processes=3", "--", *TRAINING)
    assert len(commands) == 3
    address = commands[0][-3]
    assert address.startswith("--coordinator=127.0.0.1:")
    for index, words in enumerate(commands):
        assert words == [
            *("env", "JAX_PLATFORMS=cpu", sys.executable, "-m", "vlt.main", *TRAINING),
            *(address, "--process_count=3", f"--process_index={index}"),
        ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--",), "are required: --processes"),
        (("--processes=0",), "'0': must be a whole number >= 1"),
        (("--processes=2",), "--config and --workdir: missing; after -- come the arguments of"),
        (("--processes=2", "--", TRAINING[0], "--workdir=gs://a/b"), "folder of this machine"),
        (("--processes=2", "--", "--config=configs/btadaptor.py", "--workdir=a"), "did you mean"),
    ],
)
def test_wrong_arguments_are_answered(monkeypatch, capsys, arguments, message):
    assert message in complaint(monkeypatch, capsys, "local", *arguments)


def test_first_output_is_shown_and_all_are_kept(tmp_path, capfd):
    run([python(f"print('I am', {index})") for index in range(2)], tmp_path)
    assert capfd.readouterr().out == "I am 0\n"
    logs = [(tmp_path / f"process-{index}.txt").read_text() for index in range(2)]
    assert logs == ["I am 0\n", "I am 1\n"]


@pytest.mark.parametrize("failing", [0, 1])
def test_one_that_fails_ends_all(tmp_path, monkeypatch, failing):
    monkeypatch.setattr(local, "LAST_WORDS_SECONDS", 0.2)
    sleep = python("import time; time.sleep(100)")
    commands = [sleep, python("import sys; print('no such file'); sys.exit(2)")]
    start = time.monotonic()
    with pytest.raises(LaunchError) as raised:
        run(commands if failing else commands[::-1], tmp_path)
    assert time.monotonic() - start < 20
    said = f"process {failing} ended with status 2, so all were ended; "
    assert str(raised.value).startswith(said)
    assert str(raised.value).endswith(f"process-{failing}.txt ends with: no such file")


def test_one_that_is_killed_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "LAST_WORDS_SECONDS", 0.2)
    commands = [
        python("import time; time.sleep(100)"),
        python("import os; os.kill(os.getpid(), 9)"),
    ]
    with pytest.raises(LaunchError, match="process 1 was ended by SIGKILL .the same command goes"):
        run(commands, tmp_path)


def test_sigterm_reaches_all(tmp_path):
    """Each process reports that it got the signal, and exits successfully."""
    child = "import signal,sys; signal.signal(15, lambda *_: sys.exit(print('saved'))); "
    child += "print('ready'); signal.pause()"
    code = f"""
import pathlib, sys
from launch.commands import Command
from launch.local import run
run([Command((sys.executable, "-u", "-c", {child!r}))] * 2, pathlib.Path({str(tmp_path)!r}))
"""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    launcher = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path})
    files = [tmp_path / f"process-{index}.txt" for index in range(2)]
    wait_for(lambda: all(file.exists() and "ready" in file.read_text() for file in files))
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(timeout=30) == 0
    assert [file.read_text() for file in files] == ["ready\nsaved\n"] * 2
