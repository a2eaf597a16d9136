"""Runs in processes of their own: their cores, how they end, and a study of two rows."""

import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vlt.runtime import stopping
from vlt.study import __main__ as door
from vlt.study.claim import Claim, Comparison, Row
from vlt.study.kept import KeptRows
from vlt.study.side_by_side import as_they_end, shares

pytestmark = pytest.mark.skipif(len(shares(2)) < 2, reason="needs two cores of Linux")


def cores_of_a_job(_):
    time.sleep(0.5)  # so that the other process takes the other job
    return os.sched_getaffinity(0)


def until_stopped(folder):
    """Works until it is told to stop, and then saves that it was."""
    with stopping.signals():
        (folder / "begun").touch()
        try:
            time.sleep(120)
        except stopping.Stopped:
            (folder / "saved").touch()
            raise


def fails(folder):
    while not (folder / "begun").exists():
        time.sleep(0.05)
    raise ValueError("no such video")


@pytest.mark.parametrize("count", [1, 2, 100])
def test_cores_are_shared_out(count):
    every = [core for share in shares(count) for core in share]
    assert len(shares(count)) <= count and len(every) == len(set(every))
    assert count == 1 or set(every) == os.sched_getaffinity(0)


def test_each_run_has_cores_of_its_own(tmp_path):
    jobs = [functools.partial(cores_of_a_job, index) for index in range(2)]
    assert sorted(map(sorted, as_they_end(jobs, tmp_path / "log"))) == sorted(
        map(sorted, shares(2))
    )
    assert not multiprocessing.active_children()


def test_an_error_stops_the_others_which_save_what_they_have(tmp_path):
    jobs = [functools.partial(job, tmp_path) for job in (until_stopped, fails)]
    with pytest.raises(ValueError, match="no such video"):
        list(as_they_end(jobs, tmp_path / "log"))
    assert (tmp_path / "saved").exists() and not multiprocessing.active_children()
    assert "stopping; a second signal" in (tmp_path / "log").read_text()


MAIN = """
import functools, sys
from pathlib import Path
from test_side_by_side import until_stopped
from vlt.study.side_by_side import as_they_end
if __name__ == "__main__":
    folders = [Path(folder) for folder in sys.argv[1:]]
    jobs = [functools.partial(until_stopped, folder) for folder in folders]
    list(as_they_end(jobs, folders[0] / "log"))
"""


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them(tmp_path):
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    (tmp_path / "main.py").write_text(MAIN)
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, tmp_path / "main.py", *folders]
    main = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}, start_new_session=True)
    while not all((folder / "begun").exists() for folder in folders):
        assert main.poll() is None
        time.sleep(0.1)
    main.kill()
    main.wait()
    for _ in range(100):
        try:
            os.killpg(main.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.killpg(main.pid, signal.SIGKILL)
    pytest.fail("processes outlived the one that started them")


@pytest.mark.slow
def test_rows_are_run_and_measured(tmp_path, monkeypatch):
    """At most two steps, on few clips; the twins' choices agree with the accuracy beside them."""
    small = {
        "data.train.manifest": "moving_shapes:clips:train:16",
        "evals.twins.manifest": "moving_shapes:clips:test:40",
        "evals.twins.min_pairs": 1,
        "evals.static.manifest": "moving_shapes:clips:test:40:gallery.jsonl",
        "data.train.batch_size": 8,
        "train.steps": 2,
    }
    rows = (Row("frozen", "btadapter", "zero-shot tiny CLIP", small | {"train.steps": 0}),
            Row("branch", "btadapter", "BT-Adapter", small))  # fmt: skip
    claim = Claim("small", "", "ours", "", "", rows, (Comparison("branch", "frozen"),))
    monkeypatch.setattr(door, "CLAIMS", {"small": claim})
    where = [f"--out={tmp_path}", f"--workdir={tmp_path / 'w'}", "--seeds=1"]
    assert door.main(where) == 0
    kept = KeptRows(tmp_path / "claims").by_name.values()
    assert len(kept) == 2
    for row in kept:
        digits = [int(digit) for digit in row.scores.pairs["twins"]]
        assert 25 * sum(digits) / 40 == pytest.approx(row.scores.values["twins/twins_v2t"])
        assert row.scores.counts["twins"] == 80 and row.scores.values["inspect/video_gmacs"] > 0
    assert not list((tmp_path / "w").glob("*-seed*")), "folders of runs that have ended"
    assert "40 of 520 pairs" in (tmp_path / "CLAIMS.md").read_text()
