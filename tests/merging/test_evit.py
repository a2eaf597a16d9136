"""EViT against a naive rewrite of the paper (Liang et al., ICLR 2022), and its printed price."""

import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_clip import SPEC, check_whole_model, layers_and_gmacs

from vlt.merging.evit import EViT, paid_attention
from vlt.models.points import of_tower
from vlt.models.tokens import AttentionOutput, Tokens

BLOCK = SimpleNamespace(tower="visual", layer=3)


def naive(x, attention, first, keep):
    """One frame: x [n, d], attention of the CLS token [h, n]."""
    score = attention.mean(0)
    ranked = sorted(range(first, len(x)), key=lambda i: -score[i])
    kept = math.ceil(keep * (len(x) - first))
    fused = sum(score[i] * x[i] for i in ranked[kept:])
    return np.stack([*x[:first], *(x[i] for i in ranked[:kept]), fused])


def random_frames(protected):
    rng = np.random.default_rng(0)
    n = protected + 10
    x = rng.normal(size=(2, 3, n, 4)).astype(np.float32)
    members = rng.normal(size=(2, 3, n, 5)).astype(np.float32)
    attention = rng.dirichlet(np.ones(n), (2, 3, 2, n)).astype(np.float32)
    tokens = Tokens(jnp.asarray(x), None, jnp.asarray(members), 1, protected)
    return (
        tokens,
        AttentionOutput(jnp.zeros(()), jnp.zeros(()), lambda: jnp.asarray(attention)),
        attention,
    )


@pytest.mark.parametrize("protected", [1, 3])
def test_pruning_is_that_of_a_naive_rewrite(protected):
    tokens, attended, attention = random_frames(protected)
    after = jax.jit(lambda t: EViT().after_attention(BLOCK, t, attended))(tokens)
    assert (after.cls, after.protected, after.patches) == (1, protected, 8)
    for b in range(2):
        for g in range(3):
            row = attention[b, g, :, 0]
            for name in ("x", "members"):
                expected = naive(np.asarray(getattr(tokens, name))[b, g], row, protected, 0.7)
                np.testing.assert_allclose(getattr(after, name)[b, g], expected, atol=1e-6)


def test_attention_of_all_tokens_counts_each_as_often_as_it_has_patches():
    tokens, attended, attention = random_frames(3)
    sizes = np.random.default_rng(1).integers(1, 5, tokens.x.shape[:3])
    share = sizes / sizes.sum(-1, keepdims=True)
    expected = np.einsum("bgq,bgqn->bgn", share, attention.mean(2))[..., 3:]
    sized = tokens.replace(size=jnp.asarray(sizes, jnp.float32))
    np.testing.assert_allclose(paid_attention(attended, sized, "received"), expected, rtol=1e-5)
    alike = attention.mean((2, 3))[..., 3:]
    np.testing.assert_allclose(paid_attention(attended, tokens, "received"), alike, rtol=1e-5)


def test_other_blocks_the_text_and_the_last_cls_tokens_are_left_alone():
    tokens, attended, _ = random_frames(1)
    other = SimpleNamespace(tower="visual", layer=4)
    assert EViT().after_attention(other, tokens, attended) is tokens
    assert of_tower((EViT(),), "text") == () != of_tower((EViT(),), "visual")
    alone = Tokens(tokens.x[:, :, :1])
    assert EViT().after_attention(BLOCK, alone, attended) is alone


def test_tokens_and_price():
    layers, gmacs = layers_and_gmacs("clip_b32", 12, evit={})
    assert layers == [(12, 50)] * 3 + [(12, 37)] * 3 + [(12, 28)] * 3 + [(12, 21)] * 3
    assert gmacs == pytest.approx(37.2276, abs=1e-4)  # printed 37.2


def test_whole_model():
    check_whole_model(EViT(layers=(1, 3), keep=0.5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"layers": (3, 6, 9)},
            "evit.layers must be blocks from 0 to 3, each once, ascending; got (3, 6, 9)",
        ),
        ({"layers": (2, 1)}, "each once, ascending"),
        ({"layers": (1,), "keep": 1.5}, "evit.keep must be > 0 and < 1, got 1.5"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ValueError) as error:
        EViT(**options).check(SPEC, 4)
    assert message in str(error.value)
