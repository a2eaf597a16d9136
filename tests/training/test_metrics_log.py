"""Metrics of a run that was cut short: each step once, in metrics.jsonl and in the event files."""

import time
from types import SimpleNamespace

import pytest

from vlt.storage.files import WriteError
from vlt.training import metrics_log
from vlt.training.metrics_log import MetricsLog, read_metrics


def events(workdir) -> list[tuple[int, str]]:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    (file,) = workdir.glob("events.out.tfevents.*")
    return [
        (event.step, value.tag)
        for event in EventFileLoader(str(file)).Load()
        for value in event.summary.value
    ]


def test_resuming_cuts_the_log_back_and_repeats_nothing(tmp_path):
    log = MetricsLog(tmp_path, 0, 10)
    for step in (1, 2, 3, 4):
        log.write(step, {"loss": 1.0 / step})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')  # killed while writing
    assert [entry["step"] for entry in read_metrics(tmp_path)] == [1, 2, 3, 4]

    log = MetricsLog(tmp_path, 2, 10)
    log.write(3, {"loss": 0.5})
    log.close()
    assert [(e["step"], e["loss"]) for e in read_metrics(tmp_path)] == [
        (1, 1.0),
        (2, 0.5),
        (3, 0.5),
    ]
    assert events(tmp_path) == [(1, "loss"), (2, "loss"), (3, "loss")]


def test_what_cannot_be_written_is_told_by_name(tmp_path, monkeypatch):
    from tensorflow import errors

    log = MetricsLog(tmp_path, 0, 10)

    def full(*_):
        raise errors.ResourceExhaustedError(None, None, "{{node x}} file; No space left\nmore")

    with monkeypatch.context() as patched:
        patched.setattr(log._writer, "write_scalars", full)
        with pytest.raises(WriteError, match=f"{tmp_path}: TensorBoard's.* written: file; No sp"):
            log.write(1, {"loss": 0.5})
    (tmp_path / "metrics.jsonl").rename(tmp_path / "mine")
    (tmp_path / "metrics.jsonl").symlink_to(tmp_path / "mine")
    before = (tmp_path / "mine").read_text()
    with pytest.raises(WriteError, match="metrics.jsonl is a link"):
        log.write(2, {"loss": 0.5})
    log.close()
    with pytest.raises(WriteError, match="metrics.jsonl is a link"):
        MetricsLog(tmp_path, 0, 10)
    assert (tmp_path / "mine").read_text() == before


def test_progress_tells_speed_and_time_left(tmp_path, capsys, monkeypatch):
    """Each over the time since the previous report, without evaluations."""
    clock = iter((100.0, 110.0, 148.0))
    watch = SimpleNamespace(
        perf_counter=lambda: next(clock), strftime=time.strftime, gmtime=time.gmtime
    )
    monkeypatch.setattr(metrics_log, "time", watch)
    log = MetricsLog(tmp_path, 0, 10)
    log.progress(5, {"loss": 2.5}, videos=4, waited=2.5)
    log.evaluation(5, {"own/R@1": 50.0}, seconds=30.0)
    log.progress(7, {"loss": 1.25}, videos=4, waited=8.5)
    log.close()
    assert capsys.readouterr().err.splitlines() == [
        "step 5/10  loss 2.5000  2.0 videos/s  waiting 25%  left 00:00:10",
        "step 5/10  evaluated: own/R@1 50",
        "step 7/10  loss 1.2500  1.0 videos/s  waiting 75%  left 00:00:12",
    ]
    first, _, second = read_metrics(tmp_path)
    names = ("step", "loss", "perf/videos_per_s", "perf/wait_share", "perf/step_s")
    assert [first[name] for name in names] == [5, 2.5, 2.0, 0.25, 2.0]
    assert [second[name] for name in names] == [7, 1.25, 1.0, 0.75, 4.0]
