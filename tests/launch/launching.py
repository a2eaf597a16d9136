"""Helpers for the tests of launch/: its commands run in this process, and stand-in programs."""

import importlib
import pathlib
import shlex
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

TRAINING = ("--config=btadapter:webvid_l14", "--workdir=gs://my-bucket/runs/one")


def launch(monkeypatch: pytest.MonkeyPatch, module: str, *arguments: str) -> None:
    """Runs `python -m launch.MODULE ARGUMENTS` in this process."""
    launcher = importlib.import_module(f"launch.{module}")
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    launcher.main(launcher.parser())


def printed(monkeypatch, capsys, module: str, verb: str, *arguments: str) -> str:
    """What --dry-run prints; fails if a program other than git is started."""
    start = subprocess.Popen

    def refuse(words, *others, **options):
        assert words[0] == "git", "--dry-run started a program"
        return start(words, *others, **options)

    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", refuse)
        launch(patched, module, verb, "--dry-run", *arguments)
    return capsys.readouterr().out


def planned(monkeypatch, capsys, module: str, verb: str, *arguments: str) -> list[list[str]]:
    """The words of each command that --dry-run prints."""
    return [
        shlex.split(line)
        for line in printed(monkeypatch, capsys, module, verb, *arguments).splitlines()
    ]


def complaint(monkeypatch, capsys, module: str, verb: str, *arguments: str) -> str:
    """The error message that a launcher exits with."""
    with pytest.raises(SystemExit) as ended:
        printed(monkeypatch, capsys, module, verb, *arguments)
    assert ended.value.code
    captured = capsys.readouterr()
    assert not captured.out
    return captured.err


def program(folder: pathlib.Path, name: str, source: str) -> None:
    """Writes an executable file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text(source)
    file.chmod(0o755)


def wait_for(condition: Callable[[], bool]) -> None:
    """Waits for a condition; fails if it is not true after 30 seconds."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
