"""Layers and attention against their formulas in numpy; test_attention.py covers heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlt.models import attention, layers
from vlt.models.tokens import Pattern

RNG = np.random.default_rng(0)
# Every axis has a different length: [b, g, h, q|m, d].
QUERY, KEY, VALUE = (
    RNG.normal(size=(2, 3, 4, length, 7)).astype(np.float32) for length in (5, 6, 6)
)
BIAS = RNG.normal(size=(5, 6)).astype(np.float32)
SCALE = RNG.uniform(0.5, 2, (2, 1, 4, 5, 1)).astype(np.float32)


def logits(bias=0.0, scale=1.0) -> np.ndarray:
    return QUERY.astype(np.float64) @ KEY.swapaxes(-1, -2) / np.sqrt(7) * scale + bias


@pytest.mark.parametrize("bias", [None, BIAS])
@pytest.mark.parametrize("scale", [None, SCALE])
def test_logits_are_products_over_the_root_of_a_heads_width(bias, scale):
    with jax.default_matmul_precision("highest"):
        found = attention.attention_logits(QUERY, KEY, bias, scale)
    expected = logits(0.0 if bias is None else bias, 1.0 if scale is None else scale)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_key_counts_as_often_as_its_weight():
    weight = np.array([1, 2, 0, 1, 3, 1], np.float32)
    pattern = Pattern(jnp.zeros(()), jnp.zeros(()), key_weight=jnp.tile(weight, (2, 3, 1)))
    with jax.default_matmul_precision("highest"):
        weights, total = attention.attention_weights(QUERY, KEY, pattern)
        found = attention.weighted_values(weights, total, VALUE)
    odds = np.exp(logits()) * weight
    expected = odds / odds.sum(-1, keepdims=True) @ VALUE
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_tokens_see_those_before_them_and_themselves():
    bias = attention.causal_bias(4)
    np.testing.assert_array_equal(bias == 0, np.tri(4, dtype=bool))
    assert np.isfinite(bias).all() and bias.max() == 0
    odds = jax.nn.softmax(bias)
    np.testing.assert_allclose(odds, np.tri(4) / np.arange(1, 5)[:, None])


def test_dropped_paths_are_whole_sequences_and_the_mean_stays():
    x = jnp.ones((40, 50, 2, 3))
    found = layers.DropPath(0.2).apply({}, x, rngs={"dropout": jax.random.key(0)})
    assert {*np.unique(found)} == {0.0, np.float32(1.25)}
    sequences = np.asarray(found).reshape(2000, 6)
    assert (sequences == sequences[:, :1]).all()
    assert 0.15 < (sequences[:, 0] == 0).mean() < 0.25
    np.testing.assert_array_equal(layers.DropPath(0.0).apply({}, x), x)


def test_statistics_of_a_norm_do_not_cancel():
    x = 1000 + RNG.normal(size=(2, 16)).astype(np.float32)
    module = layers.LayerNorm()
    found = module.apply(module.init(jax.random.key(0), x), x)
    exact = x.astype(np.float64)
    expected = (exact - exact.mean(-1, keepdims=True)) / exact.std(-1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-3)
