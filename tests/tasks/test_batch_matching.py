"""UMT's objective on a small model: terms, gradients, drawn pairs and masked words."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from small_retriever import SPEC, TEXT, VISUAL, batch, params
from torch.nn import functional as F

from vlt.models.retriever import Retriever
from vlt.tasks.batch_matching import BatchMatching, contrast, mask_words
from vlt.tasks.build import make_task
from vlt.tasks.matching import draw_negatives
from vlt.tasks.task import StepInputs

UMT = dataclasses.replace(
    SPEC,
    visual=dataclasses.replace(VISUAL, pool="mean", pool_norm=True, positions="sinusoid"),
    text=dataclasses.replace(TEXT, layers=2, encode_id=1, decode_id=1, mask_id=3, fusion_layer=1),
    frame_scores=True,
    masked_words=True,
)


def objective(losses, spec=UMT, size=4):
    model = Retriever(spec)
    tree = params(model)

    def run(tree):
        given = {name: jnp.asarray(x[:size]) for name, x in batch(4).items()}
        inputs = StepInputs(model, tree, {}, given, jax.random.key(0), {})
        return BatchMatching(losses).objective(inputs)

    return run, tree


def test_contrast_and_its_gradient():
    scores = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    own = np.array([0, 1, 1, 2])
    same = own[:, None] == own
    x = torch.tensor(scores, requires_grad=True)
    target = torch.tensor(same / same.sum(1, keepdims=True), dtype=torch.float32)
    expected = (F.cross_entropy(x, target) + F.cross_entropy(x.T, target)) / 2
    expected.backward()
    value, gradient = jax.value_and_grad(contrast)(jnp.asarray(scores), same)
    np.testing.assert_allclose(value, expected.item(), atol=1e-6)
    np.testing.assert_allclose(gradient, x.grad.numpy(), atol=1e-6)


@pytest.mark.slow
def test_all_terms_reach_the_leaves_that_they_are_of():
    losses = {"vtc": 1.0, "vtm": 0.5, "mlm": 0.25}
    run, tree = objective(losses)
    (value, (terms, _)), gradient = jax.jit(jax.value_and_grad(run, has_aux=True))(tree)
    weighted = sum(weight * terms[name] for name, weight in losses.items())
    np.testing.assert_allclose(value, weighted, rtol=1e-6)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        # A key's bias adds the same number to all logits of a query.
        assert np.abs(leaf).max() > 0 or name.endswith("key/bias"), name


def test_masked_words():
    ids = np.tile([1, *range(4, 18), 0], (400, 1)).astype(np.int32)
    masked, wanted = jax.device_get(mask_words(jnp.asarray(ids), UMT.text, jax.random.key(0)))
    assert not wanted[:, 0].any() and not wanted[:, -1].any()
    np.testing.assert_array_equal(masked[~wanted], ids[~wanted])
    words = wanted[:, 1:-1]
    assert abs(words.mean() - 0.5) < 0.02
    chosen, was = masked[wanted], ids[wanted]
    assert abs((chosen == 3).mean() - 0.8 - 0.1 / 20) < 0.02
    assert abs((chosen == was).mean() - 0.1) < 0.02
    assert len(np.unique(chosen)) == 20, "any word"


def test_wrong_pairs_that_no_score_speaks_for_are_drawn_too():
    far = jnp.array([[0.0, 50.0, 0.0], [0.0, 0.0, 50.0], [50.0, 0.0, 0.0]])
    same = jnp.eye(3, dtype=bool)
    draw = jax.vmap(lambda key: draw_negatives(far, same, key, 0.5)[0])
    texts = draw(jax.random.split(jax.random.key(0), 2000))
    share = float((texts[:, 0] == 1).mean())
    assert abs(share - 1.5 / 2) < 0.04  # probability 1 + 0.5 against 0 + 0.5


@pytest.mark.parametrize(
    ("losses", "spec", "size", "why"),
    [
        ({"vtc": 1.0}, UMT, 1, "a batch of 1 holds no second video"),
        ({"vtd": 1.0}, UMT, 4, "unknown task.losses: 'vtd'.*vtc"),
        ({}, UMT, 4, "task.losses has none of vtc, vtm, mlm"),
        ({"mlm": 1.0}, dataclasses.replace(UMT, masked_words=False), 4, "no head that finds"),
    ],
)
def test_what_cannot_be_is_a_sentence(losses, spec, size, why):
    with pytest.raises(ValueError, match=why):
        run, tree = objective(losses, spec, size)
        jax.eval_shape(run, tree)


def test_it_is_a_task_of_retrievers():
    config = {"task": {"name": "batch_matching", "losses": {"vtc": 1.0}}}
    assert make_task(config, UMT) == BatchMatching({"vtc": 1.0})
    with pytest.raises(ValueError, match="needs a model of kind retriever, not captioner"):
        make_task(config, dataclasses.replace(SPEC, kind="captioner"))
