"""Interpolated weight optimisation: both losses, the published gradient, the carried state."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlt.adapters.lora import LoRA
from vlt.model_io.build import init_params
from vlt.models.dual_encoder import DualEncoder
from vlt.models.sizes import SIZES
from vlt.models.spec import DualEncoderSpec, TextSpec, VisionSpec
from vlt.tasks.build import make_task
from vlt.tasks.retrieval import Retrieval
from vlt.tasks.task import StepInputs, Task
from vlt.tasks.weight_interpolation import WeightInterpolation
from vlt.training.optimizer import make_optimizer
from vlt.training.rules import partition
from vlt.training.step import TrainState, make_train_step

SPEC = DualEncoderSpec(VisionSpec(8, 4, 8, 1, 2, 16), TextSpec(5, 11, 8, 1, 2, 16), embed_dim=4)
MODEL = DualEncoder(SPEC, (LoRA(rank=2),))
RULES = ((".*/lora_[ab]", {"lr": 1.0}), (".*", "frozen"))
OPTIMIZER = {"lr": 0.1, "b1": 0.9, "b2": 0.98, "eps": 1e-8, "schedule": {"name": "constant"}}
RETRIEVAL = Retrieval({"vtc": 1.0}, 10.0, False)
RNG = np.random.default_rng(0)
BATCH = {
    "video": RNG.integers(0, 255, (4, 2, 8, 8, 3), dtype=np.uint8),
    "text": RNG.integers(1, 11, (4, 5)).astype(np.int32),
}


@pytest.fixture(scope="module")
def leaves() -> tuple[dict, dict, dict]:
    """Trained leaves, the same leaves at the start, and frozen leaves."""
    params = jax.jit(lambda: init_params(MODEL, jax.random.key(0)))()
    start, frozen = partition(params, RULES)
    rng = np.random.default_rng(1)
    trained = jax.tree.map(lambda x: x + rng.normal(0, 0.3, x.shape).astype(np.float32), start)
    return trained, start, frozen


def test_adds_the_gradient_at_interpolated_weights_as_it_is_there(leaves):
    trained, start, frozen = leaves
    task = WeightInterpolation(RETRIEVAL, largest=0.9, ratio=0.7)

    def gradient(task):
        def loss(trained, state):
            return task.objective(
                StepInputs(MODEL, trained, frozen, BATCH, jax.random.key(5), state)
            )

        return jax.jit(jax.value_and_grad(loss, has_aux=True))

    (value, (terms, carried)), found = gradient(task)(trained, {"task": {}, "start": start})
    beta = float(terms["start_share"])
    assert 0.05 < beta < 0.9
    mixed = jax.tree.map(lambda w, s: beta * s + (1 - beta) * w, trained, start)
    plain = gradient(RETRIEVAL)
    (here, (own_terms, _)), own = plain(trained, {})
    (there, _), other = plain(mixed, {})
    assert abs(here - there) > 1e-3
    np.testing.assert_allclose(value, here + 0.7 * there, rtol=1e-5)
    np.testing.assert_allclose(terms["interpolated"], there, rtol=1e-5)
    np.testing.assert_allclose(terms["vtc"], own_terms["vtc"], rtol=1e-5)
    for mine, a, b in zip(*map(jax.tree.leaves, (found, own, other)), strict=True):
        np.testing.assert_allclose(mine, a + 0.7 * b, atol=1e-5 * np.abs(mine).max() + 1e-7)
    jax.tree.map(np.testing.assert_array_equal, carried["start"], start)


@dataclasses.dataclass(frozen=True)
class Counting(Task):
    """A task that counts how often its state was carried on."""

    loss_inputs = ("label",)

    def initial_state(self, model, trained, frozen):
        return {"steps": jnp.zeros((), jnp.int32)}

    def objective(self, inputs):
        value = sum((x**2).sum() for x in jax.tree.leaves(inputs.trained))
        return value, ({"value": value}, {"steps": inputs.state["steps"] + 1})


def test_the_start_stays_while_leaves_move_and_the_tasks_own_state_goes_on(leaves):
    trained, _, frozen = leaves
    task = WeightInterpolation(Counting())
    assert task.task.separable is task.separable is False
    assert (task.model_inputs, task.loss_inputs) == (("video", "text"), ("label",))
    optimizer, schedule = make_optimizer(OPTIMIZER, RULES, 10)
    state = jax.jit(lambda t: TrainState.create(MODEL, t, frozen, optimizer, task, 0))(trained)
    step = jax.jit(make_train_step(MODEL, task, optimizer, schedule))
    shares = []
    for _ in range(20):
        state, metrics = step(state, frozen, BATCH)
        shares.append(float(metrics["start_share"]))
    assert state.task["task"]["steps"] == 20
    jax.tree.map(np.testing.assert_array_equal, state.task["start"], trained)
    moved = jax.tree.map(lambda new, old: np.abs(new - old).max(), state.trained, trained)
    assert min(jax.tree.leaves(moved)) > 0.1
    assert len(set(shares)) == 20 and 0 <= min(shares) < 0.15 and 0.45 < max(shares) < 0.6


def test_config_wraps_any_task():
    section = {"name": "captioning", "label_smoothing": 0.1, "prompt": ""}
    spec = SIZES["blip_b16_captioner"]
    plain = make_task({"task": section | {"interpolation": {}}}, spec)
    assert plain == make_task({"task": section}, spec)
    options = {"largest": 0.4, "ratio": 0.25}
    wrapped = make_task({"task": section | {"interpolation": options}}, spec)
    assert wrapped == WeightInterpolation(plain, 0.4, 0.25)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"largest": 0.0}, "task.interpolation.largest=0.0: must be > 0 and <= 1"),
        ({"largest": 1.5}, "task.interpolation.largest=1.5"),
        ({"ratio": 0.0}, "task.interpolation.ratio=0.0: must be > 0"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        WeightInterpolation(RETRIEVAL, **options)


def test_microbatches_are_refused():
    optimizer, schedule = make_optimizer(OPTIMIZER, RULES, 10)
    with pytest.raises(ValueError, match="weightinterpolation needs the whole batch"):
        make_train_step(MODEL, WeightInterpolation(RETRIEVAL), optimizer, schedule, 2)
