"""What a host does with a run: buckets, signals, exit statuses. test_tpu_vm.py covers the rest."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest
from helpers import ROOT
from launching import program, wait_for

from launch import buckets, worker

ARGUMENTS = [
    "--workdir=gs://my-bucket/runs/one",
    "--config.data.train.manifest=gs://other_b/a.jsonl",
]


def test_addresses_become_folders():
    assert buckets.buckets([*ARGUMENTS, ARGUMENTS[0], "--mode=train"]) == ["my-bucket", "other_b"]
    assert buckets.as_folders([*ARGUMENTS, "--mode=train"]) == [
        "--workdir=/gcs/my-bucket/runs/one",
        "--config.data.train.manifest=/gcs/other_b/a.jsonl",
        "--mode=train",
    ]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "launch.worker", *arguments]


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    """Makes a short vlt.main that is found before the real one."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))

    def make(source: str) -> None:
        (tmp_path / "vlt").mkdir()
        (tmp_path / "vlt/__init__.py").touch()
        (tmp_path / "vlt/configuration.py").write_text(
            "ConfigError, PACKAGED, check_flags, path_of = OSError, None, print, print\n"
        )
        (tmp_path / "vlt/main.py").write_text(source)

    return make


def run(folder: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(command(*arguments), cwd=folder, capture_output=True, text=True)


def state(folder: pathlib.Path) -> dict:
    return json.loads((folder / "state.json").read_text())


@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("", 0),
        ("import sys; sys.exit('error: no such thing')", 1),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 128 + signal.SIGKILL),
    ],
)
def test_the_exit_status_is_handed_on(trainer, tmp_path, source, status):
    trainer(source)
    assert run(tmp_path, "run", "--", "--mode=train").returncode == status
    assert run(tmp_path, "run", "--folder=.", "--", "--mode=train").returncode == status
    assert state(tmp_path)["status"] == status
    described = f"ended with status {status} at {state(tmp_path)['ended']}: --mode=train"
    (tmp_path / "state.json").write_text(
        json.dumps(state(tmp_path) | {"started": 0, "arguments": ["--mode=train"]})
    )
    assert described in run(tmp_path, "status", "--folder=.").stdout


def test_a_stopped_run_does_not_look_finished(trainer, tmp_path):
    """vlt.main saves and exits with 0, but Kubernetes must start it again."""
    trainer(
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(pathlib.Path('saved').touch()))\n"
        "pathlib.Path('begun').touch()\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen(command("run", "--", "--mode=train"), cwd=tmp_path)
    wait_for((tmp_path / "begun").exists)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == worker.STOPPED == 143
    assert (tmp_path / "saved").exists()


def test_nothing_is_written_where_no_bucket_is_mounted(trainer, tmp_path):
    trainer("print('trained')")
    done = run(tmp_path, "run", "--", *ARGUMENTS)
    assert done.returncode == 1 and not done.stdout
    assert "gs://my-bucket is not mounted at /gcs/my-bucket" in done.stderr


def test_start_mounts_what_is_not_mounted(tmp_path, monkeypatch):
    monkeypatch.setattr(buckets, "ROOT", tmp_path)
    made, owned, mounted = worker.mount_commands("my-bucket")
    target = str(tmp_path / "my-bucket")
    assert made == ["sudo", "mkdir", "-p", target] and owned[-1] == target
    assert mounted[0] == "gcsfuse" and mounted[-2:] == ["my-bucket", target]
    # Otherwise hosts would not see each other's checkpoints.
    assert {"--metadata-cache-ttl-secs=0", "--metadata-cache-negative-ttl-secs=0"} <= set(mounted)
    monkeypatch.setattr(pathlib.Path, "is_mount", lambda self: self == tmp_path / "my-bucket")
    assert worker.mount_commands("my-bucket") == []

    program(tmp_path, "sudo", "#!/bin/sh\nexit 1\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(worker.WorkerError, match="`sudo mkdir -p .*other_b` failed"):
        worker.start(ARGUMENTS, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_killed_run_is_told_and_another_can_start(trainer, tmp_path):
    trainer(
        "import os, pathlib, time\n"
        "pathlib.Path('pid').write_text(str(os.getpid())); os.rename('pid', 'begun')\n"
        "time.sleep(60)\n"
    )
    start = ("start", "--folder=.", "--", "--mode=train")
    assert run(tmp_path, *start).returncode == 0
    wait_for((tmp_path / "begun").exists)
    child = int((tmp_path / "begun").read_text())

    os.kill(state(tmp_path)["pid"], signal.SIGKILL)
    # As long as the training process lives, it holds the chips.
    assert "running --mode=train" in run(tmp_path, "status", "--folder=.").stdout
    assert "a run is under way" in run(tmp_path, *start).stderr
    gone = subprocess.Popen(["true"])
    gone.wait()
    (tmp_path / "state.json").write_text(json.dumps(state(tmp_path) | {"pid": gone.pid}))
    with pytest.raises(worker.WorkerError, match="was killed, but its vlt.main runs"):
        worker.stop(tmp_path)

    os.kill(child, signal.SIGKILL)
    wait_for(lambda: "killed without a word" in run(tmp_path, "status", "--folder=.").stdout)
    assert run(tmp_path, *start).returncode == 0
    assert run(tmp_path, "stop", "--folder=.").returncode == 0
    assert (tmp_path / "log.txt").read_text().count("-m vlt.main --mode=train") == 2


def test_a_run_goes_on_without_the_connection_that_started_it(trainer, tmp_path):
    trainer("import pathlib, time; pathlib.Path('begun').touch(); time.sleep(60)")
    start = command("start", "--folder=.", "--", "--mode=train")
    caller = subprocess.Popen(start, cwd=tmp_path, start_new_session=True)
    assert caller.wait(timeout=30) == 0
    wait_for((tmp_path / "begun").exists)
    # sshd sends SIGHUP to whatever is left of the caller's session: nothing.
    with pytest.raises(ProcessLookupError):
        os.killpg(caller.pid, signal.SIGHUP)
    worker.stop(tmp_path)
    assert state(tmp_path)["status"] == worker.STOPPED


def test_stop_says_when_saving_takes_too_long(trainer, tmp_path):
    trainer(
        "import pathlib, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "pathlib.Path('begun').touch()\n"
        "while not pathlib.Path('let go').exists(): time.sleep(0.05)\n"
    )
    assert run(tmp_path, "start", "--folder=.", "--", "--mode=train").returncode == 0
    wait_for((tmp_path / "begun").exists)
    with pytest.raises(worker.WorkerError, match=r"still running after 0\.5 s; see the log"):
        worker.stop(tmp_path, seconds=0.5)
    (tmp_path / "let go").touch()
    worker.stop(tmp_path)
    assert state(tmp_path)["status"] == worker.STOPPED


def test_dry_run_prints_the_commands_alone(trainer, tmp_path):
    trainer("")
    done = run(tmp_path, "start", "--dry-run", "--", *ARGUMENTS)
    text = done.stdout.splitlines()
    assert len(text) == 7 and text[0] == "sudo mkdir -p /gcs/my-bucket"
    assert text[6].endswith("-m vlt.main " + " ".join(buckets.as_folders(ARGUMENTS)))
    assert run(tmp_path, "run", "--dry-run", "--", *ARGUMENTS).stdout.splitlines() == text[6:]
    assert not run(tmp_path, "stop", "--dry-run", "--folder=.").stdout.strip()
    assert "come after --" in run(tmp_path, "start").stderr
    assert "come after --" in run(tmp_path, "stop", "--", "--mode=train").stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vlt"]
