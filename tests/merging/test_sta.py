"""STA against a naive rewrite, and its printed price."""

import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_clip import FRAMES, SPEC, check_whole_model, layers_and_gmacs

from vlt.merging.sta import STA
from vlt.models.tokens import AttentionOutput, Tokens


def naive(x, keys, keep, backwards):
    """One video: patches x [t, n, d] and their keys [t, n, e] -> indices kept in each frame."""
    t, n = x.shape[:2]
    frames = list(range(t))[:: -1 if backwards else 1]
    kept = math.ceil(keep * n)
    unit = keys / np.linalg.norm(keys, axis=-1, keepdims=True)
    first = frames[0]
    likeness = {
        i: max(unit[first, i] @ unit[first, j] for j in range(1, n, 2)) for i in range(0, n, 2)
    }
    gone = sorted(likeness, key=lambda i: -likeness[i])[: n - kept]
    found = {first: set(range(n)) - set(gone)}
    earlier, accumulated = unit[first], np.ones(n)
    for frame in frames[1:]:
        weight = np.abs(x[frame]).sum(-1)
        weight = (weight - weight.min()) / (weight.max() - weight.min())
        total = np.zeros(n)
        for vector, mass in zip(earlier, accumulated, strict=True):
            share = np.exp(unit[frame] @ vector)
            total += share / share.sum() * mass
        stay = sorted(range(n), key=lambda i: total[i] * (1 - weight[i]))[:kept]
        found[frame] = set(stay)
        earlier, accumulated = unit[frame, stay], total[stay] / total[stay].sum()
    return found


def run(method, layer, tokens, keys):
    block = SimpleNamespace(tower="visual", layer=layer)

    def prune(tokens, keys):
        attended = AttentionOutput(keys, keys, lambda: pytest.fail("needs no probabilities"))
        return method.after_block(block, method.after_attention(block, tokens, attended))

    return jax.jit(prune)(tokens, keys)


@pytest.mark.parametrize(("layer", "backwards", "t"), [(3, False, 5), (7, True, 5), (3, False, 1)])
def test_pruning_is_that_of_a_naive_rewrite(layer, backwards, t):
    rng = np.random.default_rng(t)
    x = rng.normal(size=(2, t, 12, 4)).astype(np.float32)
    keys = rng.normal(size=(2, t, 3, 12, 6)).astype(np.float32)
    tokens = Tokens(jnp.asarray(x), None, None, 1, 2)
    after = run(STA(), layer, tokens, keys)
    assert after.x.shape == (2, t, 8, 4)
    np.testing.assert_array_equal(after.x[:, :, :2], x[:, :, :2])
    for b in range(2):
        found = naive(x[b, :, 2:], keys[b].mean(1)[:, 2:], 0.6, backwards)
        for frame, stay in found.items():
            rows = {tuple(row) for row in x[b, frame, 2:][sorted(stay)]}
            assert {tuple(row) for row in np.asarray(after.x[b, frame, 2:])} == rows


def test_what_is_pruned_vanishes_from_members():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 3, 11, 4)).astype(np.float32)
    members = jnp.eye(33).reshape(1, 3, 11, 33).at[:, :, 0].set(0)
    after = run(STA(), 3, Tokens(jnp.asarray(x), None, members), rng.normal(size=(1, 3, 2, 11, 4)))
    np.testing.assert_array_equal(after.members.sum((2, 3)), [[6, 6, 6]])
    source = np.asarray(after.members).argmax(-1)[0, :, 1:]
    np.testing.assert_array_equal(x.reshape(33, 4)[source], after.x[0, :, 1:])


def test_tokens_and_price():
    layers, gmacs = layers_and_gmacs("clip_b32", 12, sta={})
    assert layers == [(12, 50)] * 3 + [(12, 31)] * 4 + [(12, 19)] * 5
    assert gmacs == pytest.approx(35.688, abs=1e-3)  # printed 35.7


def test_whole_model():
    check_whole_model(STA(layers=(0, 2), keep=0.7))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "sta.layers must be blocks from 0 to 3, each once, ascending; got (3, 7)"),
        ({"layers": (1,), "keep": 1.0}, "sta.keep must be > 0 and < 1, got 1.0"),
        ({"layers": (1,), "keep": 0.4}, "leaves 7 of 16 patches after block 1; at most 8 can go"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ValueError) as error:
        STA(**options).check(SPEC, FRAMES)
    assert message in str(error.value)
