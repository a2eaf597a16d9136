"""Commands for Slurm, and the batch script run with stand-ins for Slurm's programs."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest
from helpers import ROOT
from launching import complaint, planned, program, wait_for

CONFIG = "--config=configs/btadapter.py:webvid_l14"
TRAINING = (CONFIG, "--workdir=runs/one")
SIZE = ("--nodes=2", "--gpus-per-node=4", "--time=1-12:00:00")


def test_run_queues_one_task_per_gpu(monkeypatch, capsys):
    options = ("--sbatch=--account=me", "--sbatch=--mem=0", "--save-seconds=200")
    made, queued = planned(
        monkeypatch, capsys, "slurm", "run", "one", *SIZE, *options, "--", *TRAINING
    )
    assert made == ["mkdir", "-p", "runs/one/logs"]
    script = queued.index(str(ROOT / "launch/slurm_job.sh"))
    assert queued[0] == "sbatch" and set(queued[1:script]) == {
        "--job-name=one",
        "--nodes=2",
        "--gpus-per-node=4",
        "--ntasks-per-node=4",
        "--cpus-per-task=8",
        "--time=1-12:00:00",
        "--signal=B:USR1@200",
        "--requeue",
        "--open-mode=append",
        "--output=runs/one/logs/%j.txt",
        "--account=me",
        "--mem=0",
    }
    assert queued[script + 1 :] == ["runs/one/logs", sys.executable, "-m", "vlt.main", *TRAINING]


def test_stop_takes_waiting_jobs_away_and_lets_running_ones_save(monkeypatch, capsys):
    waiting, running = planned(monkeypatch, capsys, "slurm", "stop", "one")
    assert waiting == ["scancel", "--me", "--name=one", "--state=PENDING"]
    assert running == ["scancel", "--me", "--name=one", "--state=RUNNING", "--signal=TERM"]
    assert planned(monkeypatch, capsys, "slurm", "status", "one") == [
        ["squeue", "--me", "--name=one"]
    ]


RUN = ("run", "one", *SIZE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "one", "--nodes=2", "--gpus-per-node=4"), "are required: --time"),
        (("run", "one", "--nodes=0", *SIZE[1:]), "--nodes: '0': must be a whole number >= 1"),
        (("run", "one", *SIZE[:2], "--time=90"), "'90': must be HOURS:MM:SS or DAYS-HOURS:MM:SS"),
        (("run", "One!", *SIZE), "'One!': a name has at most"),
        (RUN, "--config and --workdir: missing"),
        ((*RUN, "--", CONFIG, "--workdir=gs://b/x"), "must be a folder that all nodes see"),
        ((*RUN, "--", *TRAINING, "--config.seeds=1"), "did you mean 'seed'"),
    ],
)
def test_mistakes_end_in_a_sentence(monkeypatch, capsys, arguments, message):
    assert message in complaint(monkeypatch, capsys, "slurm", *arguments)


# Like srun, it kills its task when it gets SIGTERM itself; `scancel` reaches the task.
SRUN = """\
#!/bin/bash
trap 'kill -KILL "$task"; exit 137' TERM
echo "srun $*" >> called
while [[ $1 == -* ]]; do shift; done
(echo "$BASHPID" > pid; exec "$@") &
task=$!
wait "$task"
"""
SCANCEL = """\
#!/bin/sh
echo "scancel $*" >> called
kill -TERM "$(cat pid)"
"""
SCONTROL = """\
#!/bin/sh
echo "scontrol $*" >> called
"""
SAVES = "trap 'sleep 0.3; touch saved; exit 0' TERM; touch begun; while :; do sleep 0.1; done"


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> pathlib.Path:
    """A folder in which stand-ins for Slurm's programs log their calls in `called`."""
    for name, source in {"srun": SRUN, "scancel": SCANCEL, "scontrol": SCONTROL}.items():
        program(tmp_path / "bin", name, source)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def job(*words: str) -> subprocess.Popen:
    script = str(ROOT / "launch/slurm_job.sh")
    return subprocess.Popen(["bash", script, *words], stdout=subprocess.PIPE, text=True)


def calls(folder: pathlib.Path) -> list[str]:
    return (folder / "called").read_text().splitlines()


@pytest.mark.parametrize(
    ("told", "after"),
    [(signal.SIGUSR1, ["scontrol requeue 42"]), (signal.SIGTERM, [])],
    ids=["time limit", "preempted"],
)
def test_the_job_saves_before_it_ends(slurm, told, after):
    process = job("logs", "bash", "-c", SAVES)
    wait_for((slurm / "begun").exists)
    process.send_signal(told)
    assert process.wait(timeout=30) == 0
    assert (slurm / "saved").exists()
    srun = "srun --kill-on-bad-exit=1 --output=logs/%j-%t.txt --open-mode=append bash -c "
    assert calls(slurm)[0].startswith(srun)
    assert calls(slurm)[1:] == ["scancel --signal=TERM 42", *after]


def test_being_told_again_does_not_end_the_job_early(slurm):
    process = job("logs", "bash", "-c", SAVES.replace("sleep 0.3", "sleep 2"))
    wait_for((slurm / "begun").exists)
    for count, told in enumerate((signal.SIGTERM, signal.SIGTERM, signal.SIGUSR1), 2):
        process.send_signal(told)
        wait_for(lambda count=count: len(calls(slurm)) == count)
    assert process.wait(timeout=30) == 0
    assert (slurm / "saved").exists()
    assert calls(slurm)[-1] == "scontrol requeue 42"


@pytest.mark.parametrize("status", [0, 7, 143])
def test_the_job_ends_as_its_tasks_do(slurm, status):
    process = job("logs", "bash", "-c", f"exit {status}")
    assert process.wait(timeout=30) == status
    assert len(calls(slurm)) == 1


def test_a_job_that_could_not_save_does_not_go_on(slurm):
    process = job("logs", "bash", "-c", SAVES.replace("exit 0", "exit 5"))
    wait_for((slurm / "begun").exists)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=30) == 5
    assert calls(slurm)[1:] == ["scancel --signal=TERM 42"]


def test_a_dry_run_of_the_job_prints_srun(slurm):
    process = job("--dry-run", "logs", "python", "-m", "vlt.main")
    text, _ = process.communicate(timeout=30)
    assert text.startswith("srun --kill-on-bad-exit=1 ") and "python -m vlt.main\n" in text
    assert not (slurm / "called").exists()
