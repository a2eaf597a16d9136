"""Attention is a softmax over scaled products, and the same when computed head by head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlt.models import attention
from vlt.models.tokens import Pattern

RNG = np.random.default_rng(0)
QUERY, KEY, VALUE = (
    jnp.asarray(RNG.normal(size=(2, 3, 4, length, 16)), jnp.float32) for length in (9, 7, 7)
)


def with_gradient(function):
    def loss(*heads):
        y = function(*heads)
        return jnp.square(y).sum(), y

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(QUERY, KEY, VALUE)


def test_attention_is_softmax_of_scaled_products():
    def textbook(query, key, value):
        logits = jnp.einsum("...qd,...md->...qm", query, key) / 4  # the root of 16 channels
        return jnp.einsum("...qm,...md->...qd", jax.nn.softmax(logits), value)

    expected, found = with_gradient(textbook), with_gradient(attention.attend)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 2e-6), expected, found)


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_by_heads_is_the_same(monkeypatch, parts):
    monkeypatch.setattr(attention, "CPU_CHUNK_LOGITS", -(-9 * 7 // parts))
    expected, found = with_gradient(attention.attend), with_gradient(attention.attend_by_heads)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 2e-6), expected, found)


def test_no_part_has_more_logits_than_a_cpus_cache_holds(monkeypatch):
    monkeypatch.setattr(attention, "CPU_CHUNK_LOGITS", 3 * 7)
    seen, attend = [], attention.attend
    monkeypatch.setattr(
        attention, "attend", lambda q, *rest: seen.append(q.shape) or attend(q, *rest)
    )
    jax.eval_shape(attention.attend_by_heads, QUERY, KEY, VALUE)
    assert seen == [(3, 16)] * 3


@pytest.mark.parametrize("key_weight", [None, jnp.ones((2, 3, 9))])
def test_long_sequences_alone_are_taken_by_heads(monkeypatch, key_weight):
    x = jnp.asarray(RNG.normal(size=(2, 3, 9, 32)), jnp.float32)
    pattern = Pattern(x, x, key_weight=key_weight)
    module = attention.Attention(heads=4)
    params = jax.jit(module.init)(jax.random.key(0), pattern)
    programs = []
    for long in (attention.CPU_CHUNK_LOGITS, 1):
        monkeypatch.setattr(attention, "CPU_CHUNK_LOGITS", long)
        programs.append(jax.jit(lambda params: module.apply(params, pattern)[0]))
        text = programs[-1].lower(params).as_text()
        assert ("while" in text) == (long == 1 and key_weight is None)
    np.testing.assert_allclose(*(program(params) for program in programs), 1e-5, 1e-6)


def test_probabilities_add_up_to_one_and_give_what_is_found():
    x = jnp.asarray(RNG.normal(size=(1, 1, 9, 32)), jnp.float32)

    def found(params):
        _, attended = module.apply(params, Pattern(x, x))
        return attended.probabilities(), attended.values

    module = attention.Attention(heads=4)
    params = jax.jit(module.init)(jax.random.key(0), Pattern(x, x))
    probabilities, values = jax.jit(found)(params)
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-6)
    assert probabilities.shape == (1, 1, 4, 9, 9) and values.shape == (1, 1, 4, 9, 8)


def test_a_cap_bounds_logits_before_the_bias_and_not_what_is_below_it(monkeypatch):
    logits = attention.attention_logits(QUERY, KEY, None)
    capped = attention.attention_logits(QUERY, KEY, jnp.float32(5), cap=0.5)
    np.testing.assert_allclose(capped, 0.5 * np.tanh(logits / 0.5) + 5, 1e-6)
    np.testing.assert_allclose(attention.attention_logits(QUERY, KEY, None, cap=1e4), logits, 1e-5)
    expected = attention.attend(QUERY, KEY, VALUE, 0.5)
    monkeypatch.setattr(attention, "CPU_CHUNK_LOGITS", 3 * 7)
    np.testing.assert_allclose(
        attention.attend_by_heads(QUERY, KEY, VALUE, 0.5), expected, 1e-5, 1e-6
    )
    assert np.abs(attention.attend(QUERY, KEY, VALUE) - expected).max() > 1e-2
