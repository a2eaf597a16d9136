"""The campaign of failures: its harms are what they say, and it sees runs that end differently."""

import json
import shutil

import numpy as np
import pytest

from vlt.bench import failures
from vlt.bench.failures import STEPS, HarmError, Job, campaign, cut, flip
from vlt.training.checkpoints import TrainingCheckpoints


@pytest.fixture
def job(tmp_path):
    """A job whose whole run is written by the test."""
    made = Job(tmp_path)
    write(made.whole, 1.0)
    return made


def write(workdir, value: float, loss: float = 0.5) -> None:
    checkpoints = TrainingCheckpoints(workdir, keep_last=2)
    leaves = {"w": np.full(1000, value, np.float32)}
    checkpoints.save(STEPS, {"trained": leaves, "opt_state": {"mu": leaves}}, {})
    checkpoints.close()
    entry = {"step": 1, "loss": loss, "perf/step_s": np.random.default_rng().random()}
    (workdir / "metrics.jsonl").write_text(json.dumps(entry) + "\n")


def test_a_run_of_the_same_bits_is_the_same_however_fast(job, tmp_path):
    write(tmp_path / "other", 1.0)
    job.check_same(tmp_path / "other")


@pytest.mark.parametrize(
    ("value", "loss", "message"),
    [
        (np.nextafter(np.float32(1), np.float32(2)), 0.5, "parameters: opt_state/mu/w, trained/w"),
        (1.0, 0.50001, "other metrics"),
    ],
)
def test_any_other_bit_is_seen(job, tmp_path, value, loss, message):
    write(tmp_path / "other", value, loss)
    with pytest.raises(HarmError, match=message):
        job.check_same(tmp_path / "other")


@pytest.mark.parametrize("seed", range(5))
def test_harms_are_what_they_say(tmp_path, seed):
    random, file = np.random.default_rng(seed), tmp_path / "file"
    content = random.bytes(1000)
    file.write_bytes(content)
    flip(file, random)
    bits = [(a ^ b).bit_count() for a, b in zip(file.read_bytes(), content, strict=True)]
    assert sum(bits) == 1
    file.write_bytes(content)
    cut(file, random)
    assert file.stat().st_size < 1000 and content.startswith(file.read_bytes())


def test_a_run_that_ends_otherwise_is_told_and_the_others_go_on(job, monkeypatch):
    def finish(self, workdir, *flags):
        if workdir == self.whole:
            return
        shutil.rmtree(workdir / "checkpoints", ignore_errors=True)
        write(workdir, 2.0)

    monkeypatch.setattr(Job, "finish", finish)
    monkeypatch.setattr(failures, "killed", lambda *_: {"harm": "kill", "what": "fine"})
    monkeypatch.setattr(failures, "full_disk", lambda *_: {"harm": "disk", "what": "fine"})
    monkeypatch.setattr(Job, "refused", lambda self, workdir: refusal(workdir))
    monkeypatch.setattr(Job, "copy_of_whole", copy_of)
    rows = campaign(job.folder, kills=2, seed=0)
    assert [row["same"] for row in rows] == ["yes", "yes", "NO", "NO", "yes"]
    assert "other parameters" in rows[2]["what"]


def copy_of(job: Job, name: str):
    workdir = job.folder / name
    shutil.copytree(job.whole, workdir)
    return workdir


def refusal(workdir) -> str:
    folder = workdir / "checkpoints"
    return f"error: {folder / str(STEPS)} is damaged; --restore={folder / str(STEPS - 2)}"
