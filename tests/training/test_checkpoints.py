import math
import os
import pathlib
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import environment, run_python
from trees import TREE, assert_equal, shapes

from vlt.storage import trees
from vlt.training import checkpoints
from vlt.training.checkpoints import TrainingCheckpoints


def training_state(value=0.0):
    trained = jax.tree.map(lambda leaf: jnp.asarray(leaf) + jnp.asarray(value, leaf.dtype), TREE)
    return {
        "trained": trained,
        "optimizer": optax.adamw(1e-3).init(trained),
        "step": jnp.int32(7),
        "seed": np.uint32(11),
    }


def test_a_training_state_comes_back_whole(tmp_path):
    states = {1: training_state(0.5), 2: training_state(1.5)}
    positions = {1: {"batches": 3, "replayed": ["a.mp4"]}, 2: {"batches": 5}}
    with_nan = {"R@1": 0.25, "loss": float("nan")}
    written = TrainingCheckpoints(tmp_path, keep_last=2)
    assert written.latest_complete() is None and written.steps() == []
    for step, state in states.items():
        written.save(step, state, positions[step])
        written.add_metrics(step, with_nan)
    written.close()
    read = TrainingCheckpoints(tmp_path, keep_last=2)
    assert read.latest_complete() == 2
    for step, state in states.items():
        restored = read.restore(step, shapes(state))
        assert_equal(restored.state, state)
        assert restored.data == positions[step]
        assert read.metrics(step)["R@1"] == 0.25 and np.isnan(read.metrics(step)["loss"])
    assert_equal(read.load_part(2, "trained"), jax.tree.map(np.asarray, states[2]["trained"]))
    with pytest.raises(trees.CheckpointError, match=r"no part 'train'.*'trained'"):
        read.load_part(2, "train")
    with pytest.raises(trees.CheckpointError, match=r"step 3; it has those of \[1, 2\]"):
        read.restore(3, shapes(states[1]))


def test_a_state_of_another_model_lists_the_differences(tmp_path):
    written = TrainingCheckpoints(tmp_path, keep_last=1)
    written.save(1, training_state(), {})
    written.close()
    other = shapes(training_state())
    other["trained"]["visual"]["projection"]["kernel"] = jax.ShapeDtypeStruct((2, 5), jnp.float32)
    with pytest.raises(trees.CheckpointMismatchError) as raised:
        written.restore(1, other)
    assert "1 leaves differ" in str(raised.value)
    assert "trained/visual/projection/kernel: float32[2, 3] in" in str(raised.value)


def test_other_frozen_weights_are_refused(tmp_path):
    first, second = trees.fingerprint(TREE), trees.fingerprint({"a": np.ones(3)})
    written = TrainingCheckpoints(tmp_path, keep_last=1, frozen=first)
    written.save(1, training_state(), {})
    written.close()
    abstract = shapes(training_state())
    TrainingCheckpoints(tmp_path, 1, frozen=first).restore(1, abstract)
    other = TrainingCheckpoints(tmp_path, 1, frozen=second)
    with pytest.raises(trees.CheckpointMismatchError) as raised:
        other.restore(1, abstract)
    assert first[:12] in str(raised.value) and second[:12] in str(raised.value)


@pytest.mark.parametrize(
    "best_metric, kept, best",
    [(None, [5, 6], None), ("R@1", [2, 5, 6], 2), ("-loss", [3, 5, 6], 3)],
)
def test_the_last_and_the_best_are_kept(tmp_path, best_metric, kept, best):
    recall = {1: 0.1, 2: 0.7, 4: 0.7 - 1e-6, 5: float("nan")}
    loss = {1: 3.0, 3: 1.0, 6: 2.0}
    run = TrainingCheckpoints(tmp_path, 2, best_metric)
    for step in range(1, 7):
        metrics = {"R@1": recall[step]} if step in recall else {}
        metrics |= {"loss": loss[step]} if step in loss else {}
        run.save(step, {"step": np.int32(step)}, {})
        run.add_metrics(step, metrics)
    run.close()
    assert run.steps() == kept and run.best() == best
    assert sorted(entry.name for entry in run.folder.iterdir()) == [str(step) for step in kept]


def test_of_equal_metrics_the_later_is_best(tmp_path):
    run = TrainingCheckpoints(tmp_path, 3, "R@1")
    for step in (1, 2):
        run.save(step, {"step": np.int32(step)}, {})
        run.add_metrics(step, {"R@1": 0.5})
    run.close()
    assert run.best() == 2
    assert run.chosen() == 2 and run.describe(2) == "step 2, best by R@1=0.5"


def test_what_is_measured_after_a_save_decides_what_is_kept(tmp_path):
    run = TrainingCheckpoints(tmp_path, 1, "R@1")
    for step, recall in ((1, 0.7), (2, 0.6), (3, 0.9)):
        run.save(step, {"step": np.int32(step)}, {})
        run.add_metrics(step, {"R@1": recall})
        assert run.steps() == {1: [1], 2: [1, 2], 3: [3]}[step]
    run.save(4, {"step": np.int32(4)}, {})
    run.close()
    assert run.steps() == [3, 4] and run.metrics(4) == {}
    again = TrainingCheckpoints(tmp_path, 1, "R@1")
    assert again.best() == 3 and again.latest_complete() == 4
    assert again.chosen() == 3 and again.describe(4) == "step 4, the latest"
    assert TrainingCheckpoints(tmp_path, 1).chosen() == 4
    assert again.restore(3, {"step": np.int32(0)}).state["step"] == 3


def test_a_measure_that_is_no_number_is_never_the_best(tmp_path):
    run = TrainingCheckpoints(tmp_path, 5, "R@1")
    for step, recall in ((1, 0.1), (2, math.nan), (3, math.inf)):
        run.save(step, {"step": np.int32(step)}, {})
        run.add_metrics(step, {"R@1": recall})
    assert run.best() == 1


def test_damaged_metrics_cost_no_checkpoint(tmp_path):
    run = TrainingCheckpoints(tmp_path, 5, "R@1")
    for step in (1, 2):
        run.save(step, {"step": np.int32(step)}, {})
        run.add_metrics(step, {"R@1": float(step)})
    file = run.folder / "2" / "evaluation.json"
    for text in ("", "[]", file.read_text().replace("2.0", "9.0")):
        file.write_text(text)
        again = TrainingCheckpoints(tmp_path, 5, "R@1")
        assert (again.best(), again.latest_complete(), again.metrics(2)) == (1, 2, {})


def test_a_checkpoint_of_before_that_has_its_metrics_inside(tmp_path, monkeypatch):
    run = TrainingCheckpoints(tmp_path, 5, "R@1")
    seal = checkpoints._seal
    monkeypatch.setattr(
        checkpoints, "_seal", lambda info: seal(dict(info) | {"metrics": {"R@1": 0.5}})
    )
    run.save(1, {"step": np.int32(1)}, {})
    run.close()
    monkeypatch.undo()
    again = TrainingCheckpoints(tmp_path, 5, "R@1")
    assert again.best() == 1 and again.restore(1, {"step": np.int32(0)}).state["step"] == 1


def test_a_step_saved_already_is_left_as_it_is(tmp_path):
    run = TrainingCheckpoints(tmp_path, 3)
    run.save(1, {"x": np.ones(2)}, {"n": 1})
    run.save(1, {"x": np.zeros(2)}, {"n": 2})
    run.close()
    restored = run.restore(1, {"x": np.ones(2)})
    assert restored.data == {"n": 1}
    np.testing.assert_array_equal(restored.state["x"], np.ones(2))


def test_the_state_of_the_call_is_saved_not_a_later_one(tmp_path):
    """Training overwrites donated buffers, and host arrays in place, while a save is under way."""
    step = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0)
    run = TrainingCheckpoints(tmp_path, 5)
    device = {"a": jnp.zeros((1000, 1000)), "b": jnp.zeros((1000, 1000))}
    host = np.zeros((1000, 1000), np.float32)
    for number in range(3):
        run.save(number, {"device": device, "host": host}, {})
        device = step(device)
        host += 1
    run.close()
    for number in range(3):
        state = run.restore(number, shapes({"device": device, "host": host})).state
        assert all((leaf == number).all() for leaf in jax.tree.leaves(state))


WRITER = """
    import sys, numpy as np
    from vlt.training.checkpoints import TrainingCheckpoints
    run = TrainingCheckpoints(sys.argv[1], keep_last=1)
    first = (run.latest_complete() or 0) + 1
    for step in range(first, 1000):
        state = {f'w{i}': step * np.random.rand(600, 600).astype(np.float32) for i in range(8)}
        run.save(step, state | {'step': np.int32(step)}, {'batches': step})
        print(step, flush=True)
"""


def start_writer(folder):
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(folder)]
    return subprocess.Popen(command, env=environment(1), stdout=subprocess.PIPE, text=True)


def read_latest(folder):
    """Restores the latest checkpoint and checks that all of it is of one step."""
    run = TrainingCheckpoints(folder, keep_last=1)
    latest = run.latest_complete()
    if latest is None:
        return None
    abstract = {f"w{i}": jax.ShapeDtypeStruct((600, 600), np.float32) for i in range(8)}
    restored = run.restore(latest, abstract | {"step": jax.ShapeDtypeStruct((), np.int32)})
    assert restored.state["step"] == latest and restored.data == {"batches": latest}
    assert all(0 < leaf.max() / latest <= 1 for leaf in jax.tree.leaves(restored.state))
    return latest


def kill_during_save(folder):
    """Kills a writer as soon as a save after its first has begun; returns that save's step."""
    writer = start_writer(folder)
    try:
        first = int(writer.stdout.readline())
        deadline = time.monotonic() + 60
        while True:
            assert writer.poll() is None and time.monotonic() < deadline
            half = list((folder / "checkpoints").glob("*.orbax-checkpoint-tmp"))
            if half and (step := int(half[0].name.split(".")[0])) > first:
                return step
    finally:
        writer.kill()
        writer.wait()


def test_a_kill_in_the_middle_of_a_save_leaves_the_previous_one(tmp_path):
    folder = tmp_path / "checkpoints"
    for _ in range(10):
        step = kill_during_save(tmp_path)
        assert read_latest(tmp_path) >= step - 1
        if list(folder.glob(f"{step}.orbax-checkpoint-tmp")):  # otherwise the save was faster
            break
    else:
        pytest.fail("no kill came in the middle of a save")
    # The next run's first save removes what the killed one left behind.
    run = TrainingCheckpoints(tmp_path, keep_last=1)
    run.save(1000, {"step": np.int32(1000)}, {})
    run.close()
    assert [entry.name for entry in folder.iterdir()] == ["1000"]


@pytest.mark.slow
def test_kills_at_random_moments_lose_at_most_the_save_under_way(tmp_path):
    random = np.random.default_rng(0)
    for _ in range(12):
        before = read_latest(tmp_path) or 0
        writer = start_writer(tmp_path)
        first = int(writer.stdout.readline())
        time.sleep(random.uniform(0, 0.6))
        writer.send_signal(signal.SIGKILL)
        reported = [first, *map(int, writer.stdout.read().split())]
        writer.wait()
        # `save` of a step waits for the save before it.
        assert (read_latest(tmp_path) or 0) >= max(before, reported[-1] - 1)


def test_damaged_folders_are_named_and_put_aside_when_the_user_goes_back(tmp_path):
    first = TrainingCheckpoints(tmp_path, keep_last=3)
    for step in (1, 2):
        first.save(step, {"x": np.full(3, step)}, {})
    first.close()
    folder = first.folder
    shutil.copytree(folder / "2", folder / "7")
    (folder / "7" / "_CHECKPOINT_METADATA").unlink()
    shutil.copytree(folder / "2", folder / "8")
    shutil.rmtree(folder / "8" / "state")
    (folder / "9").mkdir()
    (folder / "3.orbax-checkpoint-tmp").mkdir()
    (folder / "0.removed").mkdir()
    before = sorted(folder.iterdir())
    second = TrainingCheckpoints(tmp_path, keep_last=3)
    assert second.steps() == [1, 2]
    advice = f"checkpoints/9 is damaged.*--restore={folder}/2 goes on"
    with pytest.raises(trees.CheckpointError, match=advice):
        second.latest_complete()
    with pytest.raises(trees.CheckpointError, match="no complete checkpoint of step 9"):
        second.restore(9, {"x": np.zeros(3)})
    assert sorted(folder.iterdir()) == before, "reading changed the folder"
    second.go_back(2)
    assert second.latest_complete() == 2
    second.save(9, {"x": np.full(3, 9)}, {})
    second.close()
    assert sorted(entry.name for entry in folder.iterdir()) == [
        "1", "2", "7.aside", "8.aside", "9", "9.aside"
    ]  # fmt: skip
    np.testing.assert_array_equal(second.restore(9, {"x": np.zeros(3, int)}).state["x"], [9] * 3)


def files_of(folder):
    """The non-empty files of a folder, largest first."""
    files = [f for f in folder.rglob("*") if f.is_file() and f.stat().st_size]
    return sorted(files, key=lambda f: (-f.stat().st_size, f))


def flip(file, place):
    content = bytearray(file.read_bytes())
    content[place % len(content)] ^= 1
    file.write_bytes(content)


def halve(file, place):
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize("harm", [flip, halve])
def test_a_changed_or_cut_file_is_found_and_named(tmp_path, harm):
    """Whichever file it is: what is read is what was saved, or an error that says what to do."""
    run = TrainingCheckpoints(tmp_path, keep_last=3)
    state = {"a": np.random.default_rng(0).normal(size=(64, 64)), "b": np.arange(5, dtype=np.int32)}
    for step in (1, 2):
        run.save(step, state | {"step": np.int32(step)}, {"batches": step})
    run.close()
    shutil.copytree(run.folder / "2", tmp_path / "sound")
    refused = 0
    for number, file in enumerate(files_of(tmp_path / "sound")):
        shutil.rmtree(run.folder / "2", ignore_errors=True)
        shutil.copytree(tmp_path / "sound", run.folder / "2")
        harm(run.folder / "2" / file.relative_to(tmp_path / "sound"), 7919 * number + 100)
        again = TrainingCheckpoints(tmp_path, keep_last=3)
        try:
            restored = again.restore(again.latest_complete(), state | {"step": np.int32(0)})
        except trees.CheckpointError as error:
            refused += 1
            assert "checkpoints/2" in str(error) and f"--restore={run.folder}/1" in str(error), file
        else:
            jax.tree.map(np.testing.assert_array_equal, restored.state, state | {"step": 2})
            assert restored.data == {"batches": 2}
    assert refused >= 2


FULL = """
    import resource, signal, sys, numpy as np
    from vlt.storage import trees
    from vlt.training import checkpoints
    from vlt.training.checkpoints import TrainingCheckpoints
    state = {f'w{i}': np.random.rand(400, 400).astype('f') for i in range(4)}
    run = TrainingCheckpoints(sys.argv[1], keep_last=1)
    run.save(1, state, {})
    run.wait()
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, unlimited[1]))
    try:
        run.save(2, state, {})
        run.wait()
    except trees.CheckpointSaveError as error:
        message = str(error)
        for words in ('step 2 could not be written', 'File too large', 'MB free',
                      'step 1 is complete and untouched'):
            assert words in message, (words, message)
        assert len(message) < 1500, message
    else:
        raise AssertionError('a save that failed was not reported')
    assert run.steps() == [1]
    run.restore(1, state)
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    run.save(2, state, {})
    run.close()
    assert run.steps() == [2]
    print('went on')
"""


def test_a_write_that_fails_leaves_the_previous_one_and_can_be_tried_again(tmp_path):
    """The limit on file size makes writes fail in the middle, as a full disk does."""
    assert run_python(FULL, tmp_path) == "went on\n"


def test_no_disk_space_is_said_before_anything_is_written(tmp_path, monkeypatch):
    run = TrainingCheckpoints(tmp_path, keep_last=1)
    run.save(1, {"x": np.zeros(1000)}, {})
    run.wait()
    usage = shutil.disk_usage(tmp_path)._replace(free=4_000)
    monkeypatch.setattr(trees.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(trees.CheckpointSaveError) as raised:
        run.save(2, {"x": np.zeros(1_000_000)}, {})
    message = str(raised.value)
    assert "no space left on the device: 8.0 MB needed, 0.0 MB free" in message
    assert "step 2" in message and "step 1 is complete" in message
    assert [entry.name for entry in run.folder.iterdir()] == ["1"]


SHARDED = """
    import sys, jax, numpy as np
    from vlt.runtime.mesh import make_mesh, param_sharding
    from vlt.training.checkpoints import TrainingCheckpoints
    mesh = make_mesh(dict(data=-1, fsdp=4 if jax.device_count() == 8 else 1))
    big = np.arange(256 * 512, dtype=np.float32).reshape(256, 512)
    values = {'big': big, 'small': np.ones(3, np.float32)}
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), values)
    places = param_sharding(mesh, shapes)
    run = TrainingCheckpoints(sys.argv[2], keep_last=1)
    if sys.argv[1] == 'save':
        run.save(5, jax.device_put(values, places), {'batches': 5})
        run.close()
    else:
        abstract = jax.tree.map(lambda x, s: x.update(sharding=s), shapes, places)
        restored = run.restore(5, abstract)
        assert restored.data == {'batches': 5}
        for name, value in values.items():
            assert restored.state[name].sharding == places[name], restored.state[name].sharding
            np.testing.assert_array_equal(restored.state[name], value)
    print(sys.argv[1], jax.device_count(), places['big'].is_fully_replicated)
"""


@pytest.mark.quick(1)
@pytest.mark.parametrize("devices", [(8, 1), (1, 8)])
def test_other_numbers_of_devices_restore_the_same(tmp_path, devices):
    saved = run_python(SHARDED, "save", tmp_path, devices=devices[0])
    restored = run_python(SHARDED, "restore", tmp_path, devices=devices[1])
    assert saved == f"save {devices[0]} {devices[0] == 1}\n"
    assert restored == f"restore {devices[1]} {devices[1] == 1}\n"


_unpickled = []


def _note_pickles(event, arguments):
    if event == "pickle.find_class":
        _unpickled.append(arguments)


def test_reading_unpickles_nothing(tmp_path):
    run = TrainingCheckpoints(tmp_path / "run", keep_last=1)
    run.save(1, training_state(), {"n": 1})
    run.close()
    trees.save_tree(tmp_path / "weights", TREE)
    sys.addaudithook(_note_pickles)
    pickle.loads(pickle.dumps(pathlib.PurePosixPath("a")))
    assert _unpickled, "the hook sees no unpickling"
    _unpickled.clear()
    run.restore(1, shapes(training_state()))
    trees.load_tree(tmp_path / "weights")
    assert not _unpickled


def test_interrupted_and_resumed_training_equals_uninterrupted(tmp_path):
    optimizer = optax.adamw(0.1)

    @jax.jit
    def step(state, batch):
        gradient = jax.grad(lambda p: jnp.sum((p["w"] - batch) ** 2))(state["trained"])
        updates, moments = optimizer.update(gradient, state["optimizer"], state["trained"])
        trained = optax.apply_updates(state["trained"], updates)
        return {"trained": trained, "optimizer": moments, "step": state["step"] + 1}

    def start():
        trained = {"w": jnp.zeros(5)}
        return {"trained": trained, "optimizer": optimizer.init(trained), "step": jnp.int32(0)}

    batches = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    whole = start()
    for batch in batches:
        whole = step(whole, batch)
    part = start()
    for batch in batches[:3]:
        part = step(part, batch)
    run = TrainingCheckpoints(tmp_path, keep_last=1)
    run.save(int(part["step"]), part, {"batches": 3})
    run.close()
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    restored = TrainingCheckpoints(tmp_path, 1).restore(3, shapes(start(), place))
    resumed = restored.state
    for batch in batches[restored.data["batches"] :]:
        resumed = step(resumed, batch)
    assert_equal(resumed, whole)


def test_at_least_one_checkpoint_is_kept(tmp_path):
    with pytest.raises(ValueError, match="keep_last must be >= 1, got 0"):
        TrainingCheckpoints(tmp_path, keep_last=0)
    assert not os.listdir(tmp_path)
