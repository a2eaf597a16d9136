"""The training step: exact accumulation, any number of devices, no step on non-finite values."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vlt.adapters.btadapter import BTAdapter
from vlt.data.chat_batches import VIDEO_SLOT
from vlt.data.text.dialogue_rows import NO_LABEL
from vlt.model_io.build import init_params, make_model
from vlt.models.dual_encoder import DualEncoder
from vlt.models.spec import ChatSpec, DualEncoderSpec, LlamaSpec, TextSpec, VisionSpec
from vlt.pytrees.partition import merge
from vlt.tasks.conversation import Conversation
from vlt.tasks.retrieval import Retrieval
from vlt.training.optimizer import make_optimizer
from vlt.training.rules import partition
from vlt.training.step import TrainState, make_train_step

SPEC = DualEncoderSpec(VisionSpec(8, 4, 16, 2, 2, 32), TextSpec(5, 11, 16, 1, 2, 32), embed_dim=8)
RULES = (("visual/btadapter/.*", {"lr": 1.0}), ("logit_scale", {"lr": 1.0}), (".*", "frozen"))
OPTIMIZER = {"lr": 1e-2, "b1": 0.9, "b2": 0.98, "eps": 1e-8, "schedule": {"name": "constant"}}


@functools.cache
def params():
    """Parameters of a model without a mask; a mask changes none of them."""
    return jax.jit(lambda: init_params(built(0.0), jax.random.key(0)))()


def built(mask_rate):
    return DualEncoder(SPEC, (BTAdapter(depth=1, mask_rate=mask_rate, drop_path=0.0),))


def setup(losses=None, mask_rate=0.0):
    model = built(mask_rate)
    trained, frozen = partition(params(), RULES)
    optimizer, schedule = make_optimizer(OPTIMIZER, RULES, 10)
    task = Retrieval(losses or {"vtc": 1.0, "mbta": 0.1, "mbca": 0.1}, None, True)
    return model, task, optimizer, schedule, trained, frozen


def batch(size=8):
    rng = np.random.default_rng(0)
    video = rng.integers(0, 255, (size, 3, 8, 8, 3), dtype=np.uint8)
    return {"video": video, "text": rng.integers(1, 11, (size, 5)).astype(np.int32)}


pytestmark = pytest.mark.usefixtures("highest_precision")


@functools.cache
def started(accumulate=1):
    """A program of steps, the state it starts with, and the frozen leaves."""
    model, task, optimizer, schedule, trained, frozen = setup()
    step = jax.jit(make_train_step(model, task, optimizer, schedule, accumulate))
    return step, TrainState.create(model, trained, frozen, optimizer, task, 0), frozen


def run_step(accumulate):
    step, state, frozen = started(accumulate)
    return step(state, frozen, batch())


def assert_same_gradients(a, b):
    """Compares gradients to 1e-5 of each tensor's largest entry.

    A key's bias adds the same number to all logits of a query, so its gradient is zero but for
    rounding.
    """
    for (path, x), (_, y) in zip(*map(jax.tree_util.tree_leaves_with_path, (a, b)), strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name.endswith("key/bias"):
            assert max(np.abs(x).max(), np.abs(y).max()) < 1e-7, name
        else:
            assert np.abs(x - y).max() <= 1e-5 * np.abs(x).max(), name


@pytest.mark.quick(1)
@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_gradient_is_that_of_the_whole_batch(parts):
    """First moments of Adam are the gradients times 1 - b1."""
    (whole, metrics), (state, accumulated) = run_step(1), run_step(parts)
    for name in ("loss", "vtc", "mbta", "mbca", "grad_norm"):
        np.testing.assert_allclose(accumulated[name], metrics[name], rtol=1e-5)
    assert_same_gradients(
        optax.tree.get(whole.opt_state, "mu"), optax.tree.get(state.opt_state, "mu")
    )
    assert whole.step == state.step == 1 and not whole.failed
    assert metrics["lr"] == accumulated["lr"] == np.float32(OPTIMIZER["lr"])


def test_step_that_is_not_finite_changes_nothing():
    data = batch()
    data["video"] = data["video"].astype(np.float32)
    data["video"][0, 0, 0, 0, 0] = np.nan
    step, state, frozen = started()
    after, metrics = step(state, frozen, data)
    assert not metrics["finite"]
    jax.tree.map(
        np.testing.assert_array_equal,
        (after.trained, after.opt_state),
        (state.trained, state.opt_state),
    )
    assert after.step == 0 and after.failed
    again, metrics = step(after, frozen, batch())
    assert again.failed and not metrics["finite"], "nothing moves after a failure"
    jax.tree.map(np.testing.assert_array_equal, again.trained, state.trained)


@pytest.mark.slow
def test_masks_differ_from_step_to_step_and_repeat_with_the_seed():
    model, task, optimizer, schedule, trained, frozen = setup(mask_rate=0.5)
    step = jax.jit(make_train_step(model, task, optimizer, schedule))
    state = TrainState.create(model, trained, frozen, optimizer, task, 0)
    later = dataclasses.replace(state, step=state.step + 1)
    other = dataclasses.replace(state, seed=jnp.uint32(1))
    losses = [float(step(s, frozen, batch())[1]["mbta"]) for s in (state, later, other, state)]
    assert losses[0] == losses[3] and len({*losses}) == 3
    assert step._cache_size() == 1, "repeats of other seeds share the program"


def test_frozen_leaves_cost_no_gradient_and_no_stored_activation():
    """The backward pass keeps nothing of the backbone's MLPs."""
    model, task, _, _, trained, frozen = setup({"vtc": 1.0})
    data = batch()

    def loss(trained):
        out = model.apply({"params": merge(trained, frozen)}, data["video"], data["text"])
        return task.loss(task.features(out, data))[0]

    residuals = jax.tree.leaves(jax.eval_shape(lambda leaves: jax.vjp(loss, leaves)[1], trained))
    frames, tokens = 8 * 3, 1 + SPEC.visual.patches
    backbone_mlp = frames * tokens * SPEC.visual.mlp_width
    shapes = [x.shape for x in residuals if hasattr(x, "shape")]
    assert not any(np.prod(shape) == backbone_mlp for shape in shapes), shapes


def test_text_of_unknown_loss_is_refused():
    with pytest.raises(ValueError, match="unknown task.losses: 'vct' .did you mean 'vtc'"):
        Retrieval({"vct": 1.0}, None, False)


def test_loss_that_no_method_feeds_is_refused():
    model = DualEncoder(SPEC)
    data = batch()
    apply = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), *data.values()))
    out = apply[0]
    with pytest.raises(ValueError, match="mbca: no method of the model outputs 'branch_features'"):
        Retrieval({"mbca": 1.0}, None, False).features(out, data)


@pytest.mark.slow
def test_parts_of_dialogues_with_unlike_numbers_of_labels_are_one_mean():
    """The words of a batch count equally, whichever part they are in."""
    spec = ChatSpec(VisionSpec(8, 4, 8, 2, 2, 16), LlamaSpec(16, 20, 8, 1, 2, 16), read=1)
    model, task = make_model(spec, {"token_rows": {}}), Conversation()
    rules = (("(connector|text)/.*", {"lr": 1.0}), (".*", "frozen"))
    trained, frozen = partition(init_params(model, jax.random.key(0)), rules)
    optimizer, schedule = make_optimizer(OPTIMIZER, rules, 10)
    rng = np.random.default_rng(0)
    ids = rng.integers(3, 20, (8, 12)).astype(np.int32)
    ids[:, 1:6] = VIDEO_SLOT
    labels = np.where(np.arange(12) >= rng.integers(7, 12, (8, 1)), ids, NO_LABEL)
    video = rng.integers(0, 255, (8, 3, 8, 8, 3), dtype=np.uint8)
    data = {"video": video, "text": ids, "labels": labels.astype(np.int32)}
    states = []
    for parts in (1, 4):
        state = TrainState.create(model, trained, frozen, optimizer, task, 0)
        step = make_train_step(model, task, optimizer, schedule, parts)
        with jax.default_matmul_precision("highest"):
            states.append(jax.jit(step)(state, frozen, data)[0])
    assert_same_gradients(*(optax.tree.get(state.opt_state, "mu") for state in states))
