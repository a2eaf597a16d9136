"""DiffRate: masks in training against sliced tokens in deployment, both against a rewrite."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_clip import (
    FRAMES,
    SPEC,
    check_whole_model,
    embed,
    layers_and_gmacs,
    price,
    random_params,
    small,
    videos,
)

from vlt.costs import flops
from vlt.merging.diffrate import DiffRate, expected, linear_schedule, survival, video_gmacs
from vlt.model_io.build import abstract_params, example_inputs, forward, make_model
from vlt.models.sizes import SIZES
from vlt.models.tokens import AttentionOutput, Tokens
from vlt.pytrees.partition import merge
from vlt.training.rules import partition

LEARNED = DiffRate(None, None, granularity=1, target=0.01)
GIVEN = DiffRate((16, 13, 9, 6), (16, 11, 7, 5))


def naive(x, size, attention, kept, merged):
    """One frame with one CLS token: x [n, d], size [n], attention of the CLS token [h, n]."""
    ranked = sorted(range(1, len(x)), key=lambda i: -attention.mean(0)[i])[:kept]
    targets, sources = ranked[:merged], ranked[merged:]
    unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
    groups = {i: [i] for i in targets}
    sizes = {i: size[i] for i in targets}
    for i in sources:
        to = max(targets, key=lambda j: unit[i] @ unit[j])
        groups[to].append(i)
        sizes[to] += size[i] * max(0.0, unit[i] @ unit[to])
    means = [np.mean([x[i] for i in groups[j]], axis=0) for j in targets]
    return np.stack([x[0], *means]), np.array([size[0], *sizes.values()])


def learned_params(counts):
    """Parameters whose theta in blocks 1 to 3 all but certainly choose these (kept, merged)."""
    params = random_params(small(LEARNED))
    for i, pair in enumerate(counts, start=1):
        for name, count in zip(("prune", "merge"), pair, strict=True):
            theta = np.zeros(16, np.float32)
            theta[16 - count] = 12.0  # choices are 16, 15, ..., 1
            params["visual"][f"blocks_{i}"]["diffrate"][name] = theta
    return params


def test_slicing_is_that_of_a_naive_rewrite():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 17, 4)).astype(np.float32)
    size = rng.integers(1, 4, (2, 3, 17)).astype(np.float32)
    attention = rng.dirichlet(np.ones(17), (2, 3, 2, 17)).astype(np.float32)
    members = jnp.eye(17)[None, None] * jnp.ones((2, 3, 1, 1))
    block = SimpleNamespace(tower="visual", layer=1)
    attended = AttentionOutput(jnp.zeros(()), jnp.zeros(()), lambda: jnp.asarray(attention))
    after = jax.jit(lambda *leaves: GIVEN.after_attention(block, Tokens(*leaves), attended))(
        x, size, members
    )
    assert after.patches == 11
    np.testing.assert_array_equal(after.members.sum((2, 3)), 14)  # three patches are pruned
    for b in range(2):
        for g in range(3):
            tokens, sizes = naive(x[b, g], size[b, g], attention[b, g, :, 0], 13, 11)
            np.testing.assert_allclose(after.x[b, g], tokens, atol=1e-6)
            np.testing.assert_allclose(after.size[b, g], sizes, atol=1e-6)


def test_masks_of_training_and_sliced_tokens_give_the_same_embedding():
    counts = ((13, 11), (9, 7), (12, 5))  # block 3 can prune nothing more
    params = learned_params(counts)
    deployed, sliced = LEARNED.fold_for_inference(params)
    assert deployed.kept == (16, 13, 9, 7)
    assert deployed.merged == (16, 11, 7, 5)
    assert "diffrate" in params["visual"]["blocks_1"]
    assert "diffrate" not in sliced["visual"]["blocks_1"]
    masked = embed(small(LEARNED), params, videos(), train=True)
    np.testing.assert_allclose(embed(small(deployed), sliced, videos()), masked, atol=1e-5)
    other = DiffRate((16, 12, 9, 7), deployed.merged)
    assert jnp.abs(embed(small(other), sliced, videos()) - masked).max() > 1e-4


def test_gradients_reach_theta():
    params = learned_params(((13, 11), (9, 7), (6, 5)))
    model = small(LEARNED)

    theta, others = partition(params, ((".*/diffrate/.*", {}), (".*", "frozen")))

    def values(theta):
        variables = {"params": merge(theta, others)}
        video, out = model.apply(variables, videos(), train=True, method="encode_video")
        return video[0, 0], out["gmacs_excess"]

    embedding, cost = jax.jit(jax.jacrev(values))(theta)
    for i in (1, 2, 3):
        for name in ("prune", "merge"):
            leaf = [g["visual"][f"blocks_{i}"]["diffrate"][name] for g in (embedding, cost)]
            assert np.isfinite(leaf).all()
            assert np.abs(leaf[1]).max() > 0
            # Nothing reads what the last block removes.
            assert (np.abs(leaf[0]).max() > 0) == (i < 3)


def test_price_is_that_of_the_counter():
    """The sliced program's price, without its matching; masks run at full length."""
    params = learned_params(((13, 13), (9, 9), (6, 6)))
    model = small(LEARNED)

    def excess(params):
        _, out = model.apply({"params": params}, videos(), train=True, method="encode_video")
        return out["gmacs_excess"]

    counts = (16, 13, 9, 6)
    counted = price(small(DiffRate(counts, counts), cls_only=False))
    found = float(jax.jit(excess)(params)) + LEARNED.target
    assert found == pytest.approx(counted, rel=1e-6)


def test_counts_are_rounded_up_and_follow_the_mean():
    choices = jnp.array([5, 3, 1])
    assert float(expected(jnp.zeros(3), choices)) == 3
    assert float(expected(jnp.array([0.1, 0.0, 0.0]), choices)) == 4
    gradient = jax.grad(lambda t: expected(t, choices))(jnp.zeros(3))
    np.testing.assert_allclose(gradient, [2 / 3, 0, -2 / 3], atol=1e-6)
    lives = survival(jnp.zeros(3), choices, jnp.arange(6) < 3)
    np.testing.assert_allclose(lives, [1, 1, 1, 0, 0, 0], atol=1e-6)


def test_tokens_and_price():
    layers, gmacs = layers_and_gmacs("clip_b32", 12, diffrate={})
    counts = [47, 45, 43, 40, 37, 35, 33, 30, 27, 25, 23, 20]
    assert layers == [(12, count) for count in counts]
    assert gmacs == pytest.approx(36.997, abs=1e-3)  # printed 36.8


def test_linear_schedule():
    kept, merged = linear_schedule(12, 4, 2)
    assert (kept, merged) == ((10, 6), (8, 4))


def test_whole_model():
    check_whole_model(GIVEN)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "diffrate.kept=(48, 45"),
        ({"kept": (9, 9, 9, 9), "merged": None}, "diffrate.merged=None: a count for each of 4"),
        ({"kept": (16, 12, 8, 4), "merged": (14, 13, 8, 4)}, "must not rise from 16 patches"),
        ({"kept": (17, 12, 8, 4), "merged": (12, 8, 4, 4)}, "must not rise from 16 patches"),
        ({"kept": (9, 3, 2, 1), "merged": (9, 2, 1, 0)}, "stay above 0"),
        (
            {"kept": None, "merged": None, "granularity": 20},
            "diffrate.granularity must be between 1 and 16, got 20",
        ),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ValueError) as error:
        DiffRate(**options).check(SPEC, FRAMES)
    assert message in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["pe_b16", "eva02_b16", "siglip2_b16"])
def test_price_of_towers_that_pool_turn_or_gate(size):
    """All of it except matching, for a video that keeps all its tokens."""
    spec = SIZES[size]
    model = make_model(spec, {}, 2, cls_only=False)
    video, _ = example_inputs(spec, 2, 8)
    counted = flops.count(forward(model, "encode_video"), abstract_params(model), video)
    tokens = [jnp.float32(spec.visual.patches + spec.visual.cls)] * (spec.visual.layers + 1)
    found = video_gmacs(spec.visual, spec.embed_dim, 2, tokens)
    np.testing.assert_allclose(found, counted.total / 1e9, rtol=1e-6)
