"""Real processes on loopback: one run, one result, whichever is killed, stopped or wrong."""

import inspect
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import traverse_util
from helpers import ROOT, environment, run_python
from processes import CONFIG, LOST_SECONDS, finish, start_run, together, wait_until

from vlt.runtime import processes
from vlt.training.checkpoints import TrainingCheckpoints
from vlt.training.metrics_log import PERFORMANCE, read_metrics

STEPS = 12
EVALS = (
    "--config.evals.looks.kind=retrieval",
    "--config.train.eval_every=4",
)


def trained(workdir):
    part = TrainingCheckpoints(workdir, 1).load_part(STEPS, "trained")
    return traverse_util.flatten_dict(part, sep="/")


def assert_equal_runs(workdir, other, exactly=False):
    """Compares metrics and parameters, to 1e-5 of the largest for float32 sums in another order."""
    found, expected = read_metrics(workdir), read_metrics(other)
    assert [e["step"] for e in found] == [e["step"] for e in expected]
    for a, b in zip(found, expected, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            if not name.startswith(PERFORMANCE):
                assert a[name] == pytest.approx(b[name], rel=0 if exactly else 1e-5), name
    leaves = trained(other)
    for path, leaf in trained(workdir).items():
        # Softmax cancels a bias of the keys: its gradient is rounding, which Adam amplifies.
        if exactly or not path.endswith("attention/key/bias"):
            limit = 0 if exactly else 1e-5 * max(np.abs(leaf).max(), 1)
            np.testing.assert_allclose(leaf, leaves[path], rtol=0, atol=limit, err_msg=path)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone")
    finish(start_run(workdir, 1, *EVALS))
    return workdir


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The workdir of a run of two processes, and what they printed."""
    workdir = tmp_path_factory.mktemp("two")
    return workdir, finish(start_run(workdir, 2, *EVALS))


@pytest.mark.slow
def test_two_processes_are_one_run(alone, two):
    workdir, ((table, _), (silent, complaints)) = two
    assert_equal_runs(workdir, alone)
    assert "R@1" in table and "R@1" not in silent
    assert "step 1/12" not in complaints
    names = {path.name for path in workdir.iterdir()}
    assert len([name for name in names if name.startswith("events.out")]) == 1
    assert any(name.startswith("vlt-1.") for name in names)
    first, second = (json.loads((w / "results.json").read_text()) for w in (alone, workdir))
    assert first[0]["looks/t2v_R@1"] == second[0]["looks/t2v_R@1"]


@pytest.mark.slow
def test_four_processes_are_one_run(alone, tmp_path):
    finish(start_run(tmp_path, 4, *EVALS))
    assert_equal_runs(tmp_path, alone)


@pytest.mark.slow
def test_split_parameters_are_one_run(alone, tmp_path):
    """fsdp over processes: no process has a whole parameter or moment."""
    split = ("--config.mesh.data=1", "--config.mesh.fsdp=2", "--config.sharding.min_elements=64")
    finish(start_run(tmp_path, 2, *EVALS, *split))
    assert_equal_runs(tmp_path, alone)


@pytest.mark.slow
def test_processes_that_split_heads_read_the_same_videos(alone, tmp_path):
    finish(start_run(tmp_path, 3, *EVALS, "--config.mesh.data=1", "--config.mesh.tensor=3"))
    assert_equal_runs(tmp_path, alone)


def started(workdir):
    return lambda: (workdir / "checkpoints" / "4").exists() and len(read_metrics(workdir)) > 5


@pytest.mark.slow
def test_a_killed_process_ends_all_in_time_and_the_run_goes_on_to_the_same_bits(two, tmp_path):
    children = start_run(tmp_path, 2, *EVALS)
    wait_until(started(tmp_path), children)
    children[1].kill()
    start = time.monotonic()
    _, errors = children[0].communicate(timeout=200)
    assert time.monotonic() - start < LOST_SECONDS + 30
    assert children[0].returncode == 1
    assert re.search(r"error: process 1 of 2 ended without a word.*the same command goes", errors)
    finish(start_run(tmp_path, 2, *EVALS))
    assert_equal_runs(tmp_path, two[0], exactly=True)


@pytest.mark.slow
def test_without_the_first_process_the_others_end_in_time(two, tmp_path):
    children = start_run(tmp_path, 2, *EVALS)
    wait_until(started(tmp_path), children)
    children[0].kill()
    children[0].wait()
    _, errors = children[1].communicate(timeout=LOST_SECONDS + 30)
    assert children[1].returncode != 0 and "another task died" in errors
    finish(start_run(tmp_path, 2, *EVALS))
    assert_equal_runs(tmp_path, two[0], exactly=True)


@pytest.mark.slow
@pytest.mark.parametrize(("told", "after"), [(1, 1), (0, 4)])
def test_sigterm_to_any_process_saves_once_and_any_number_goes_on(alone, tmp_path, told, after):
    children = start_run(tmp_path, 2, *EVALS)
    wait_until(lambda: len(read_metrics(tmp_path)) > 1, children)
    children[told].send_signal(signal.SIGTERM)
    (_, errors), (_, silent) = finish(children)
    step = int(re.search(r"stopped at step (\d+); the same command", errors)[1])
    assert "stopped at" not in silent
    assert TrainingCheckpoints(tmp_path, 1).latest_complete() == step < STEPS
    finish(start_run(tmp_path, after, *EVALS))
    assert_equal_runs(tmp_path, alone)


@pytest.mark.slow
def test_ctrl_c_to_one_process_saves_once(alone, tmp_path):
    children = start_run(tmp_path, 2, *EVALS)
    wait_until(lambda: len(read_metrics(tmp_path)) > 1, children)
    children[0].send_signal(signal.SIGINT)
    (_, errors), _ = finish(children)
    step = int(re.search(r"stopped at step (\d+); the same command", errors)[1])
    assert TrainingCheckpoints(tmp_path, 1).latest_complete() == step < STEPS
    finish(start_run(tmp_path, 2, *EVALS))
    assert_equal_runs(tmp_path, alone)


@pytest.mark.slow
def test_a_process_whose_input_hangs_ends_all_when_they_are_told_to_stop(two, tmp_path):
    children = start_run(tmp_path, 2, *EVALS, "--config.data.decode_timeout=10000.0")
    wait_until(started(tmp_path), children)
    listed = f"/proc/{children[1].pid}/task/{children[1].pid}/children"
    for number in pathlib.Path(listed).read_text().split():
        os.kill(int(number), signal.SIGSTOP)
    time.sleep(5)
    children[0].send_signal(signal.SIGTERM)
    errors = [child.communicate(timeout=60)[1] for child in children]
    assert [child.returncode for child in children] == [1, 1]
    assert re.search(r"error: told to stop, but this process has waited for input for", errors[1])
    assert re.search(r"error: process 1: told to stop, but this process has waited", errors[0])
    finish(start_run(tmp_path, 2, *EVALS))
    assert_equal_runs(tmp_path, two[0], exactly=True)


def test_an_error_of_one_process_is_told_by_the_others():
    code = """
        import time
        try:
            if processes.is_primary():
                time.sleep(100)
            raise ValueError("its disk is full")
        except ValueError as error:
            processes.leave(error)
            sys.exit(3)
    """
    with pytest.raises(AssertionError, match="error: process 1: its disk is full. All processes"):
        together(code, 2)


def test_a_process_that_failed_waits_until_the_others_have_looked_twice():
    assert 2 * processes.WATCH_EVERY <= processes.COMMON_ERROR < 3 * processes.WATCH_EVERY


@pytest.mark.parametrize(
    ("alive", "reasons", "told"),
    [
        ([0], [], "process 1, 2 of 3 ended without a word, or was not heard of for 60 s. All"),
        ([0, 1], [("vlt/ended/2", "no space")], "process 2: no space. All processes stop; the"),
    ],
)
def test_processes_that_are_gone_are_named(alive, reasons, told, monkeypatch):
    def end(text):
        raise SystemExit(text)

    listed = {"get_live_nodes": lambda ids: alive, "key_value_dir_get": lambda folder: reasons}
    for name, stand_in in (
        ("_client", lambda: SimpleNamespace(**listed)),
        ("end", end),
        ("WATCH_EVERY", 0.01),
        ("_lost_seconds", 60),
    ):
        monkeypatch.setattr(processes, name, stand_in)
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    with pytest.raises(SystemExit, match=told):
        processes._watch()


def test_processes_agree_or_say_who_differs():
    code = """
        import jax
        index = jax.process_index()
        assert processes.broadcast_from_primary(index + 5) == 5
        assert processes.broadcast_from_primary(None if index == 0 else 1) is None
        assert processes.total(index + 1) == 3
        processes.check_alike("names", "same")
        try:
            processes.check_alike("names", str(index))
        except processes.DistributedError as error:
            print(error)
    """
    said = "names: process 1 has another than the first process; all need the same\n"
    assert together(code, 2) == [said, said]


WRONG = {
    ("--coordinator=10.0.0.1",): "--coordinator=10.0.0.1: must be HOST:PORT",
    ("--coordinator=a:1", "--process_count=2"): "needs --process_count and --process_index, too",
    ("--coordinator=a:1", "--process_count=2", "--process_index=2"): "must be between 0 and 1",
    ("--process_index=1",): "--process_index=1 needs --coordinator",
}


@pytest.mark.parametrize("given", WRONG)
def test_wrong_flags_are_answered(given):
    values = dict(flag[2:].split("=") for flag in given)
    count, index = (
        int(values[k]) if k in values else None for k in ("process_count", "process_index")
    )
    with pytest.raises(processes.DistributedError, match=re.escape(WRONG[given])):
        processes.join(values.get("coordinator", ""), count, index)


def test_a_number_of_processes_that_nothing_tells_of_is_refused():
    code = """
        from vlt.runtime import processes
        try:
            processes.join(count=4)
        except processes.DistributedError as error:
            print(error)
    """
    assert "--process_count=4, but there are 1 processes" in run_python(code)


def test_another_number_than_the_environments_is_refused(monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "16")
    with pytest.raises(processes.DistributedError, match="=4, but the environment.*NTASKS=16"):
        processes.join(count=4)


@pytest.mark.parametrize("name", ["join_seconds", "lost_seconds"])
def test_the_command_waits_as_long_as_the_function(name):
    command = [sys.executable, "-m", "vlt", "train", "--help"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    default = inspect.signature(processes.join).parameters[name].default
    assert re.search(rf"--{name}:[^-]*\(default: '{default}'\)", told)


@pytest.mark.parametrize("index", [0, 1])
def test_who_waits_in_vain_says_where_and_how_long(tmp_path, index):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    command = (
        *(sys.executable, "-m", "vlt.main", f"--config={CONFIG}", f"--workdir={tmp_path}"),
        *(f"--coordinator={address}", "--process_count=2", f"--process_index={index}"),
        "--join_seconds=2",
    )
    done = subprocess.run(
        command, cwd=ROOT, env=environment(1), capture_output=True, text=True, timeout=100
    )
    said = (
        f"error: at {address} not all of 2 processes came within 2 s",
        f"error: no answer from {address} for 2 s",
    )
    assert done.returncode == 1 and said[index] in done.stderr, done.stderr[-3000:]
    assert os.listdir(tmp_path) == []
