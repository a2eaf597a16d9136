"""Answers for a chat model: their likelihood, and whether the model itself gives them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlt.data.chat_batches import VIDEO_SLOT
from vlt.data.text.dialogue_rows import NO_LABEL
from vlt.evaluation.conversation import judge
from vlt.model_io.build import init_params, make_model
from vlt.models.spec import ChatSpec, LlamaSpec, VisionSpec

SPEC = ChatSpec(VisionSpec(16, 8, 16, 2, 2, 32), LlamaSpec(32, 12, 16, 2, 2, 32, init_std=0.5))
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def model():
    module = make_model(SPEC, {}, 2)
    return module, jax.jit(partial(init_params, module))(jax.random.key(0))


@pytest.fixture(scope="module")
def asked():
    """Two videos, each with two dialogues of 3 words, 5 slots and a 3-word answer."""
    ids = np.concatenate(
        [
            RNG.integers(3, 12, (2, 2, 3)),
            np.full((2, 2, 5), VIDEO_SLOT),
            RNG.integers(3, 12, (2, 2, 3)),
        ],
        axis=-1,
    ).astype(np.int32)
    labels = np.where(np.arange(11) >= 8, ids, NO_LABEL)
    return RNG.integers(0, 255, (2, 2, 16, 16, 3)).astype(np.uint8), ids, labels


@pytest.mark.slow
def test_likelihood_is_that_of_each_dialogue_alone(model, asked):
    module, params = model
    apply = jax.jit(module.apply)
    video, ids, labels = asked
    likelihood, _ = judge(module, params, video, ids, labels)
    for row in range(2):
        for choice in range(2):
            out = apply({"params": params}, video[row][None], ids[row, choice][None])
            logs = jax.nn.log_softmax(out["logits"][0])
            own = sum(logs[place - 1, ids[row, choice, place]] for place in range(8, 11))
            np.testing.assert_allclose(likelihood[row, choice], own, atol=1e-4)


def test_greedy_answers_are_those_that_the_model_writes_and_as_likely(model, asked):
    module, params = model
    apply = jax.jit(module.apply)
    video, ids, labels = asked
    written, expected = ids[:, :1].copy(), np.zeros(2)
    for place in range(8, 11):
        out = apply({"params": params}, video, jnp.asarray(written[:, 0]))
        logs = jax.nn.log_softmax(out["logits"][:, place - 1])
        written[:, 0, place], expected = logs.argmax(-1), expected + logs.max(-1)
    both = np.concatenate([written, ids[:, 1:]], axis=1)
    told = np.where(labels == NO_LABEL, NO_LABEL, both)
    likelihood, greedy = judge(module, params, video, both, told)
    np.testing.assert_allclose(likelihood[:, 0], expected, atol=1e-4)
    assert greedy.tolist() == [[True, False], [True, False]]
