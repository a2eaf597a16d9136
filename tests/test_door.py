"""How a command over videos ends: well, with a sentence, by a signal, or with its reader."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import environment

from vlt.command_line import COMMANDS
from vlt.door import run_door

WAITING = """
import sys, time
from vlt.door import run_door

def body():
    print("ready", flush=True)
    time.sleep(100)

sys.exit(run_door(body))
"""
TALKING = """
import sys
from vlt.door import run_door

def body():
    while True:
        print("a.mp4: a line", flush=True)

sys.exit(run_door(body))
"""


def start(code):
    command = [sys.executable, "-c", code]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment(1))


def test_errors_that_a_user_can_mend_are_a_sentence(capsys):
    def body():
        raise ValueError("beams=0\x1b")

    assert run_door(body) == 1
    assert capsys.readouterr().err == "error: beams=0\\u001b\n"
    assert run_door(lambda: 0) == 0
    with pytest.raises(ZeroDivisionError):
        run_door(lambda: 1 // 0)


@pytest.mark.quick(1)
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_without_a_traceback(signum):
    with start(WAITING) as child:
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signum)
        _, err = child.communicate(timeout=60)
    assert child.returncode == 128 + signum
    # Printed by a thread, which the process may end before.
    assert not err or err.startswith("stopping") and "Traceback" not in err


def test_a_reader_that_has_gone_ends_it_quietly():
    with start(TALKING) as child:
        child.stdout.readline()
        child.stdout.close()
        err = child.stderr.read()
    assert child.wait(timeout=60) == 128 + signal.SIGPIPE
    assert not err


@pytest.mark.parametrize(
    "command",
    [
        "cut clip.mp4 --start=0 --end=1 --out={}",
        "embed clip.mp4 --model=tiny_clip --out={}",
        "judge --qa predictions.json references.json --replay={} --out={}",
    ],
)
def test_a_file_in_place_of_a_folder_is_told(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("clip.mp4").write_text("")
    Path("predictions.json").write_text('[{"id": "a", "question": "what?", "pred": "x"}]')
    Path("references.json").write_text('[{"id": "a", "question": "what?", "answer": "x"}]')
    name, *arguments = command.replace("{}", "file").split()
    assert COMMANDS[name].run([name, *arguments]) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: ") and "file" in told and told.count("\n") == 1
    assert Path("file").read_text() == ""
