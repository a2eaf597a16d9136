"""The loop as a user meets it: the command, killed, stopped, resumed, and given wrong input."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import ROOT, environment

from vlt.configuration import load_config
from vlt.configuration.values import literal
from vlt.main import OtherConfigError, claim, print_tables, run_all
from vlt.training.checkpoints import TrainingCheckpoints
from vlt.training.metrics_log import PERFORMANCE, read_metrics
from vlt.training.workdir import FILES

CONFIG = "tests/loop_config.py"
PROGRAMS = f"{PERFORMANCE}programs"


def command(workdir: Path, *overrides: str) -> list[str]:
    return [
        sys.executable, "-m", "vlt.main", f"--config={CONFIG}", f"--workdir={workdir}", *overrides,
    ]  # fmt: skip


def run(workdir: Path, *overrides: str, devices: int = 1) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(workdir, *overrides),
        cwd=ROOT, env=environment(devices), capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def start(workdir: Path, *overrides: str) -> subprocess.Popen:
    return subprocess.Popen(
        command(workdir, *overrides),
        cwd=ROOT, env=environment(1), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(condition, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert process.poll() is None, process.stderr.read()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def logged(workdir: Path) -> list[dict]:
    """Metrics without what depends on the machine's speed."""
    return [
        {name: value for name, value in entry.items() if not name.startswith(PERFORMANCE)}
        for entry in read_metrics(workdir)
    ]


def trained(workdir: Path) -> dict[str, np.ndarray]:
    from flax import traverse_util

    checkpoints = TrainingCheckpoints(workdir, 1)
    return traverse_util.flatten_dict(checkpoints.load_part(12, "trained"), sep="/")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("whole")
    done = run(workdir)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "R@1" in done.stdout
    return workdir


def assert_same_run(workdir: Path, whole: Path) -> None:
    expected, got = trained(whole), trained(workdir)
    assert expected.keys() == got.keys()
    for path, leaf in expected.items():
        np.testing.assert_array_equal(got[path], leaf, err_msg=path)
    assert logged(workdir) == logged(whole)


@pytest.mark.smoke
def test_run_leaves_what_people_look_for(whole):
    names = {path.name for path in whole.iterdir()}
    assert {"config.txt", "versions.json", "metrics.jsonl", "results.md", "results.json"} <= names
    patterns = {re.sub("[A-Z]{2,}", "*", file).partition("/")[0] for file in FILES}
    assert [name for name in names if not any(fnmatch(name, each) for each in patterns)] == []
    assert any(name.startswith("events.out.tfevents") for name in names)
    steps = [entry["step"] for entry in logged(whole)]
    assert steps == [*range(1, 13), 12], "every step once, then the evaluation"
    assert json.loads((whole / "versions.json").read_text())["jax"]


@pytest.mark.slow
def test_every_program_is_compiled_once(tmp_path):
    done = run(tmp_path, "--config.train.eval_every=4")
    assert done.returncode == 0, done.stderr[-3000:]
    found = {entry["step"]: entry for entry in read_metrics(tmp_path) if PROGRAMS in entry}
    # The first checkpoint and evaluation are at step 4; the next are at 8.
    assert found[1][PROGRAMS] >= 1
    assert found[3][PROGRAMS] == found[1][PROGRAMS], "a step compiles nothing after the first"
    assert found[5][PROGRAMS] == found[12][PROGRAMS], "nor do evaluations and checkpoints"


def test_finished_run_prints_its_table_and_trains_nothing(whole, capsys):
    before = {path: path.stat().st_mtime_ns for path in whole.glob("checkpoints/*")}
    config = load_config(str(ROOT / CONFIG))
    print_tables(config, run_all(config, whole))
    printed = capsys.readouterr()
    assert "R@1" in printed.out and "step" not in printed.err
    assert {path: path.stat().st_mtime_ns for path in whole.glob("checkpoints/*")} == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment", [pytest.param("after a checkpoint", marks=pytest.mark.slow), "while saving"]
)
def test_killed_run_resumes_to_the_same_bits(whole, tmp_path, moment):
    process = start(tmp_path)
    name = "4" if moment == "after a checkpoint" else "8*tmp*"
    wait_for(lambda: list(tmp_path.glob(f"checkpoints/{name}")) or _done(tmp_path, 8), process)
    process.kill()
    process.wait()
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same_run(tmp_path, whole)


def _done(workdir: Path, step: int) -> bool:
    return (workdir / "checkpoints" / str(step)).exists()


@pytest.mark.slow
def test_terminated_run_saves_and_resumes(whole, tmp_path):
    process = start(tmp_path)
    wait_for(lambda: len(read_metrics(tmp_path)) >= 2, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors[-3000:]
    assert "the same command goes on from there" in errors
    assert TrainingCheckpoints(tmp_path, 1).latest_complete() not in (None, 12)
    assert run(tmp_path).returncode == 0
    assert_same_run(tmp_path, whole)


def decoders(process: subprocess.Popen) -> list[int]:
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(number) for number in listed.split()]


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_run_whose_input_hangs_saves_the_last_step_and_resumes(whole, tmp_path, sent):
    """A video for which no answer comes, with no limit that would end the wait."""
    process = start(tmp_path, "--config.data.decode_timeout=10000.0")
    wait_for(lambda: len(read_metrics(tmp_path)) >= 2, process)
    for number in decoders(process):
        os.kill(number, signal.SIGSTOP)
    before = -1
    while before != (before := len(read_metrics(tmp_path))):
        time.sleep(3)  # what was read ahead is still trained on
    assert process.poll() is None and before < 12
    process.send_signal(sent)
    _, errors = process.communicate(timeout=15)
    assert process.returncode == 0, errors[-3000:]
    assert f"stopped at step {before}; the same command goes on from there" in errors
    assert TrainingCheckpoints(tmp_path, 1).latest_complete() == before
    assert run(tmp_path).returncode == 0
    assert_same_run(tmp_path, whole)


@pytest.mark.quick(1)
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_run_can_be_stopped_before_its_first_step(tmp_path, sent):
    process = start(tmp_path)
    wait_for(lambda: (tmp_path / "versions.json").exists(), process)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in errors, errors[-3000:]
    assert errors.splitlines()[-1].startswith("stopped")
    assert not (tmp_path / "run.lock").exists()


@pytest.mark.slow
def test_a_second_run_in_a_workdir_is_refused_and_harms_nothing(whole, tmp_path):
    process = start(tmp_path)
    wait_for(lambda: read_metrics(tmp_path), process)
    process.send_signal(signal.SIGSTOP)  # otherwise it may have ended before the others begin
    for mode in ("train", "eval"):
        done = run(tmp_path, f"--mode={mode}")
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert f"is in use by a live run (process {process.pid} of " in done.stderr
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors[-3000:]
    assert_same_run(tmp_path, whole)


@pytest.mark.slow
def test_checkpoint_of_one_device_goes_on_with_eight(whole, tmp_path):
    overrides = ("--config.data.train.batch_size=8", "--config.evals.looks.batch_size=8")
    stopped = run(tmp_path / "a", *overrides, "--config.train.steps=4")
    assert stopped.returncode == 0, stopped.stderr[-3000:]
    checkpoints = TrainingCheckpoints(tmp_path / "a", 1)
    assert checkpoints.latest_complete() == 4
    # Restoring through Run, as resuming does, onto a mesh of other devices.
    code = f"""
        import sys
        from pathlib import Path
        from vlt.configuration import load_saved
        from vlt.training.loop import Run
        import jax
        config = load_saved({str(tmp_path / "a")!r})
        config.mesh.fsdp = 4
        config.evals = {{}}
        run = Run(config, Path({str(tmp_path / "a")!r}))
        run.restore(4)
        leaf = run.state.trained["visual"]["btadapter"]["spatial_0"]["mlp"]["fc1"]["kernel"]
        print("restored", int(run.state.step), len(leaf.sharding.device_set))
        run.close()
    """
    from helpers import run_python

    assert "restored 4 8" in run_python(code, devices=8, timeout=300)


@pytest.mark.slow
def test_loss_that_is_not_finite_stops_with_its_batch(tmp_path):
    done = run(tmp_path, "--config.task.scale=inf", "--config.train.log_every=100")
    assert done.returncode == 1
    assert "step 1: loss nan" in done.stderr and "The batch: videos/" in done.stderr
    report = json.loads((tmp_path / "nonfinite-1" / "report.json").read_text())
    assert len(report["batch"]) == 4
    assert (tmp_path / "nonfinite-1" / "state").is_dir()


WRONG = {
    "--config.train.stepz=3": "did you mean.*train.steps",
    "--config.mesh.fsdp=3": "fsdp=3 is larger than the number of devices",
    "--config.data.train.manifest=/nowhere.jsonl": "/nowhere.jsonl: there is no such file",
    "--config.data.train.on_error=ignore": "must be one of raise, skip, replace",
    "--config.model.checkpoint=/nowhere": "/nowhere: no such folder",
}


@pytest.mark.quick(1)
@pytest.mark.parametrize("override", WRONG)
def test_wrong_input_is_answered_in_a_sentence(tmp_path, override):
    done = run(tmp_path, override)
    assert done.returncode != 0
    assert re.search(WRONG[override], done.stderr), done.stderr[-2000:]
    assert "Traceback" not in done.stderr


def test_a_config_can_be_mended_until_its_run_starts(tmp_path):
    wrong, right = (load_config(CONFIG, {"model.btadapter.depth": depth}) for depth in (9, 1))
    claim(tmp_path, wrong)
    (tmp_path / "metrics.jsonl").touch()
    claim(tmp_path, right)
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(OtherConfigError, match="depth: 1 there, 9 now"):
        claim(tmp_path, wrong)


def test_workdir_of_another_config_is_refused(whole):
    other, told = load_config(str(ROOT / CONFIG), {"seed": 5}), "seed: 0 there, 5 now"
    with pytest.raises(OtherConfigError, match=f"(?s)holds a run of another config.*{told}"):
        run_all(other, whole)


EVALUATING = (
    "--config.train.eval_every=5", "--config.train.checkpoint_every=100",
    "--config.train.keep_last=1", "--config.train.best_metric=-looks/t2v_MnR",
    "--config.table=(('looks/t2v_R@1', 'R@1'), ('inspect/video_gmacs', 'GMACs', '.4f'))",
)  # fmt: skip


@pytest.fixture(scope="module")
def evaluating(tmp_path_factory) -> tuple[Path, SimpleNamespace]:
    """A run, in this process, that evaluates at steps at which no checkpoint is due."""
    workdir = tmp_path_factory.mktemp("evaluating")
    typed = dict(each.removeprefix("--config.").split("=") for each in EVALUATING)
    config = load_config(str(ROOT / CONFIG), {key: literal(text) for key, text in typed.items()})
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        print_tables(config, run_all(config, workdir))
    return workdir, SimpleNamespace(stdout=out.getvalue(), stderr=errors.getvalue())


def measured(workdir: Path) -> dict[int, float]:
    """What the evaluations found, by step."""
    found = [entry for entry in logged(workdir) if "looks/t2v_MnR" in entry]
    assert len({entry["step"] for entry in found}) == len(found), "a step is there twice"
    return {entry["step"]: entry["looks/t2v_MnR"] for entry in found}


def test_evaluations_are_made_at_their_steps_and_the_best_is_kept(evaluating):
    workdir, done = evaluating
    found = measured(workdir)
    assert list(found) == [5, 10, 12], "whatever steps checkpoints are due at"
    assert re.findall(r"step (\d+)/12  evaluated: looks/t2v_R@1 ", done.stderr) == ["5", "10", "12"]
    best = min(found, key=lambda step: (found[step], -step))
    checkpoints = TrainingCheckpoints(workdir, 1, "-looks/t2v_MnR")
    assert checkpoints.best() == best and checkpoints.steps() == sorted({best, 12})
    assert checkpoints.metrics(12)["looks/t2v_MnR"] == found[12], "the last may be the best"


@pytest.mark.slow
def test_the_table_the_evaluation_and_the_export_say_which_checkpoint(evaluating, tmp_path):
    workdir, trained_run = evaluating
    checkpoints = TrainingCheckpoints(workdir, 1, "-looks/t2v_MnR")
    told = checkpoints.describe(checkpoints.best())
    assert told.startswith(f"step {checkpoints.best()}, best by looks/t2v_MnR=")
    assert (f"vlt.export take {told}" in trained_run.stdout) == (checkpoints.best() != 12)
    evaluated = run(workdir, *EVALUATING, "--mode=eval")
    assert evaluated.returncode == 0 and told in evaluated.stderr
    head, _, row = evaluated.stdout.splitlines()[:3]
    assert "GMACs" in head and "step ms" not in head and " - " not in row, evaluated.stdout
    exported = subprocess.run(
        [sys.executable, "-m", "vlt.export", f"--workdir={workdir}", str(tmp_path / "model")],
        cwd=ROOT, env=environment(1), capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert exported.returncode == 0 and told in exported.stderr, exported.stderr


@pytest.mark.slow
def test_a_run_killed_in_its_evaluation_makes_it_when_it_goes_on(evaluating, tmp_path):
    whole, _ = evaluating
    process = start(tmp_path, *EVALUATING)
    wait_for(lambda: list(tmp_path.glob("checkpoints/5*")), process)
    process.kill()
    process.wait()
    done = run(tmp_path, *EVALUATING)
    assert done.returncode == 0, done.stderr[-3000:]
    assert measured(tmp_path) == measured(whole)
    assert_same_run(tmp_path, whole)


@pytest.mark.slow
@pytest.mark.parametrize("written", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_run_killed_after_its_last_step_is_evaluated_when_it_goes_on(
    evaluating, tmp_path, written
):
    whole, _ = evaluating
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    for name in ("run.json", "results.json", "results.md", "checkpoints/12/evaluation.json"):
        (workdir / name).unlink()
    if not written:
        file = workdir / "metrics.jsonl"
        file.write_text("".join(line + "\n" for line in file.read_text().splitlines()[:-1]))
    done = run(workdir, *EVALUATING)
    assert done.returncode == 0 and "loss" not in done.stderr, done.stderr[-3000:]
    assert measured(workdir) == measured(whole)
    last = TrainingCheckpoints(workdir, 1).metrics(12)
    assert last == TrainingCheckpoints(whole, 1).metrics(12) and last


@pytest.mark.slow
def test_evaluations_may_be_others_than_those_of_training(evaluating):
    workdir, _ = evaluating
    other = "--config.evals.looks.ties=published"
    assert run(workdir, *EVALUATING, other, "--mode=eval").returncode == 0
    refused = run(workdir, *EVALUATING, "--config.seed=5", "--mode=eval")
    assert refused.returncode == 1 and "seed: 0 there, 5 now" in refused.stderr
    assert "remove" not in refused.stderr, "an evaluation is no reason to lose a run"
    assert run(workdir, *EVALUATING, other).returncode == 1, "training goes on as it began"


@pytest.mark.slow
def test_a_run_is_evaluated_by_its_own_config(evaluating):
    """The config need not be named; its evaluations may be changed, but nothing else."""
    workdir, _ = evaluating

    def evaluate(*changes: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "vlt", "eval", f"--workdir={workdir}", *changes]
        return subprocess.run(
            command, cwd=ROOT, env=environment(1), capture_output=True, text=True, timeout=200
        )

    done = evaluate("--config.evals.looks.ties=published")
    assert done.returncode == 0 and "looks/t2v_MnR=" in done.stderr, done.stderr[-3000:]
    refused = evaluate("--config.model.btadapter.depth=2")
    assert refused.returncode == 1 and "depth: 1 there, 2 now" in refused.stderr
    assert "remove" not in refused.stderr
