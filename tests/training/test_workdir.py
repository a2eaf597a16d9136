"""The folder of a run: whose it is, and that one run at a time writes into it."""

import os
import signal
import socket
import subprocess
import sys
import time

import filelock
import numpy as np
import pytest
from helpers import ROOT, environment

from vlt import configuration
from vlt.configuration import load_config
from vlt.storage.files import WriteError
from vlt.storage.trees import CheckpointError
from vlt.training import workdir
from vlt.training.checkpoints import TrainingCheckpoints
from vlt.training.workdir import LOCK, WorkdirError, claim, go_back, held, prepare

CONFIG = "tests/loop_config.py"

# Holds the workdirs named on its standard input until that ends; prints why where it may not.
HOLD = """
import contextlib, pathlib, sys
from vlt.training import workdir
workdir.LEASE, workdir.HEARTBEAT = 3.0, 0.5
print("ready", flush=True)
with contextlib.ExitStack() as stack:
    for line in sys.stdin:
        try:
            stack.enter_context(workdir.held(pathlib.Path(line.strip())))
            print("held", flush=True)
        except workdir.WorkdirError as error:
            print(error, flush=True)
"""


def holder():
    """A process that holds the workdirs it is told."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        cwd=ROOT, env=environment(1), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout.readline() == "ready\n"
    return child


def tell(child, folder):
    child.stdin.write(f"{folder}\n")
    child.stdin.flush()


@pytest.fixture
def other(tmp_path):
    """A process that holds tmp_path."""
    child = holder()
    tell(child, tmp_path)
    assert child.stdout.readline() == "held\n"
    yield child
    child.kill()
    child.wait()


@pytest.fixture
def quick(monkeypatch):
    """Leases of seconds, as in the processes of this file."""
    monkeypatch.setattr(workdir, "LEASE", 3.0)
    monkeypatch.setattr(workdir, "HEARTBEAT", 0.5)


@pytest.mark.slow
def test_of_runs_that_start_together_exactly_one_has_the_folder(tmp_path):
    children = [holder() for _ in range(3)]
    folders = [tmp_path / str(number) for number in range(10)]
    for folder in folders:
        folder.mkdir()
        for child in children:
            tell(child, folder)
        said = [child.stdout.readline() for child in children]
        assert said.count("held\n") == 1, said
        winner = children[said.index("held\n")]
        where = f"in use by a live run (process {winner.pid} of {socket.gethostname()}"
        assert all(text == "held\n" or where in text for text in said), said
    for child in children:
        child.communicate("")
    assert [os.listdir(folder) for folder in folders] == [[]] * len(folders)


def test_who_has_it_is_named_with_host_process_and_time(tmp_path, quick, other):
    since = (tmp_path / workdir.SINCE).read_text().strip()
    start = time.monotonic()
    with pytest.raises(WorkdirError) as raised, held(tmp_path):
        pass
    assert time.monotonic() - start < 1, "at once"
    told = f"process {other.pid} of {socket.gethostname()}, since {since}"
    assert told in str(raised.value) and f"remove {tmp_path / LOCK}" in str(raised.value)
    other.communicate("")
    with held(tmp_path), held(tmp_path):
        assert (tmp_path / LOCK).exists(), "one process may hold it several times"
    assert not (tmp_path / LOCK).exists()


def test_one_whose_parent_has_not_asked_how_it_ended_blocks_for_a_lease(tmp_path, quick, other):
    other.kill()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays a zombie
    start = time.monotonic()
    with held(tmp_path):
        assert time.monotonic() - start < 3 * workdir.LEASE


@pytest.mark.parametrize("ended", [signal.SIGKILL, signal.SIGTERM])
def test_a_dead_process_of_this_host_does_not_block(tmp_path, quick, other, ended):
    other.send_signal(ended)
    other.wait()
    assert (tmp_path / LOCK).exists()
    start = time.monotonic()
    with held(tmp_path):
        assert time.monotonic() - start < 1


def marker(folder, **changed):
    """Writes the lock of a process: this one's, with changes."""
    lock = filelock.SoftFileLease(folder / LOCK, lease_duration=3.0)
    with lock:
        text = (folder / LOCK).read_text()
    lines = dict(line.partition("=")[::2] for line in text.splitlines()[1:]) | changed
    (folder / LOCK).write_text("\n".join([text.splitlines()[0], *map("=".join, lines.items()), ""]))


def test_another_process_of_the_same_number_does_not_block(tmp_path, quick):
    """The number was reused: the live process started at another time."""
    marker(tmp_path, start="12345")
    with held(tmp_path):
        pass


def test_a_process_of_another_host_counts_as_long_as_it_gives_signs_of_life(tmp_path, quick):
    marker(tmp_path, host="elsewhere", pid="7")
    start = time.monotonic()
    with held(tmp_path):
        assert time.monotonic() - start > 2, "only after a lease without a sign of life"
    marker(tmp_path, host="elsewhere", pid="7")
    beating = "import os, sys, time\nwhile True: os.utime(sys.argv[1]); time.sleep(0.5)"
    child = subprocess.Popen([sys.executable, "-c", beating, str(tmp_path / LOCK)])
    try:
        with pytest.raises(WorkdirError, match="process 7 of elsewhere"), held(tmp_path):
            pass
    finally:
        child.kill()
        child.wait()


def files(folder):
    return {path: path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "name", ["config.json", "config.txt", "versions.json", "metrics.jsonl", "results.json", "a.txt"]
)
def test_a_folder_that_is_no_runs_is_left_as_it_is(tmp_path, name):
    (tmp_path / name).write_text('{"model_type": "clip"}')
    before = files(tmp_path)
    with pytest.raises(WorkdirError, match=f"is not the folder of a run: it holds {name}"):
        claim(tmp_path, load_config(CONFIG))
    assert files(tmp_path) == before


@pytest.mark.parametrize("name", ["config.json", "config.txt", "metrics.jsonl", "checkpoints"])
def test_links_in_a_runs_folder_are_refused(tmp_path, name):
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    claim_new(folder)
    elsewhere.mkdir() if name == "checkpoints" else elsewhere.write_text("mine")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(elsewhere)
    with pytest.raises(WorkdirError, match=f"holds links .{name}.;"):
        claim(folder, load_config(CONFIG))
    assert elsewhere.is_dir() or elsewhere.read_text() == "mine"


def claim_new(folder):
    folder.mkdir()
    claim(folder, load_config(CONFIG))


def test_a_folder_that_is_a_link_to_a_runs_or_an_empty_one_is_taken(tmp_path):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "scratch")
    for _ in range(2):
        claim(tmp_path / "run", load_config(CONFIG))
    assert (tmp_path / "scratch" / "config.json").exists()


def test_what_a_killed_start_left_does_not_block_the_next(tmp_path, monkeypatch):
    config = load_config(CONFIG)

    def killed(*_):
        raise KeyboardInterrupt

    for file in ("config.json", "config.txt", "versions.json"):
        folder = tmp_path / file.replace(".", "-")
        folder.mkdir()
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(
                "vlt.storage.files.os.replace",
                lambda a, b, f=file, go_on=os.replace: killed() if b.name == f else go_on(a, b),
            )
            # A kill runs no `finally`.
            patched.setattr("pathlib.Path.unlink", lambda *_, **__: None)
            claim(folder, config)
        (folder / f"{LOCK}.since").touch()
        claim(folder, config)
        assert configuration.is_run(folder) and (folder / "versions.json").exists()


def test_folders_that_cannot_be_are_answered_in_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WorkdirError, match="file: .*file is not a folder"):
        prepare(tmp_path / "file")
    with pytest.raises(WorkdirError, match="cannot be written: Not a directory"):
        prepare(tmp_path / "file" / "run")
    with pytest.raises(WorkdirError, match="/proc/run cannot be written"):
        prepare(type(tmp_path)("/proc/run"))
    with pytest.raises(WorkdirError, match="^/ "):
        prepare(type(tmp_path)("/"))


def test_going_back_stays_in_the_workdir(tmp_path):
    claim_new(tmp_path / "run")
    other = tmp_path / "other" / "checkpoints" / "4"
    other.mkdir(parents=True)
    with pytest.raises(CheckpointError, match="is not in --workdir="):
        go_back(tmp_path / "run", other)
    (tmp_path / "run" / "checkpoints").mkdir()
    (tmp_path / "run" / "checkpoints" / "4").symlink_to(other)
    with pytest.raises((CheckpointError, WriteError), match="is not in --workdir=|is a link"):
        go_back(tmp_path / "run", tmp_path / "run" / "checkpoints" / "4")


def test_a_run_that_had_ended_goes_on_from_where_it_went_back_to(tmp_path):
    claim_new(tmp_path / "run")
    checkpoints = TrainingCheckpoints(tmp_path / "run", 2)
    for step in (1, 2):
        checkpoints.save(step, {"x": np.zeros(1)}, {})
    checkpoints.close()
    ended = tmp_path / "run" / "run.json"
    ended.write_text("{}")
    with pytest.raises(CheckpointError):
        go_back(tmp_path / "run", tmp_path / "run" / "checkpoints" / "7")
    assert ended.exists()
    go_back(tmp_path / "run", tmp_path / "run" / "checkpoints" / "1")
    assert not ended.exists()
    assert TrainingCheckpoints(tmp_path / "run", 1).steps() == [1]
