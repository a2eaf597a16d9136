"""Rotary positions against complex numbers, and properties that follow from them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlt.merging.matching import match, merge
from vlt.models.attention import Attention
from vlt.models.block import Block
from vlt.models.rotary import Rotary
from vlt.models.tokens import KeysValues, Pattern, Tokens

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 1, 3, 5, 8)).astype(np.float32)  # [b, g, h, n, d]
PLACES = RNG.integers(0, 50, (2, 1, 5, 2)).astype(np.float32)


def turned(x: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Multiplies pairs [..., p, 2] by e^(i angle)."""
    z = (x[..., 0] + 1j * x[..., 1]) * np.exp(1j * angles.astype(np.float64))
    return np.stack([z.real, z.imag], axis=-1)


def test_llamas_pairs_are_half_a_head_apart():
    places = PLACES[..., :1]
    angles = places[:, :, None] * 10000.0 ** (-np.arange(4) / 4)
    pairs = np.stack([X[..., :4], X[..., 4:]], axis=-1)
    expected = np.concatenate(np.split(turned(pairs, angles), 2, axis=-1), axis=-2)[..., 0]
    np.testing.assert_allclose(Rotary()(X, places), expected, atol=2e-5)


def test_pes_pairs_are_neighbours_and_each_dimension_has_its_half():
    angles = PLACES[:, :, None, :, :, None] * 10000.0 ** (-np.arange(2) / 2)
    expected = turned(X.reshape(*X.shape[:-1], 2, 2, 2), angles).reshape(X.shape)
    np.testing.assert_allclose(Rotary(neighbours=True)(X, PLACES), expected, atol=2e-5)


@pytest.mark.parametrize("neighbours", [False, True])
def test_scores_depend_on_differences_of_places(neighbours):
    rotary = Rotary(base=100.0, neighbours=neighbours)

    def scores(places):
        return np.einsum("bghnd,bghmd->bghnm", rotary(X, places), rotary(X[..., ::-1], places))

    np.testing.assert_allclose(scores(PLACES), scores(PLACES + 7), atol=2e-4)
    assert np.abs(scores(PLACES) - scores(2 * PLACES)).max() > 0.1
    np.testing.assert_array_equal(rotary(X, np.zeros_like(PLACES)), X)


def test_places_that_do_not_share_the_channels_are_a_sentence():
    with pytest.raises(ValueError, match="heads of 8 channels do not divide into pairs for 3 dim"):
        Rotary()(X, np.zeros((2, 1, 5, 3)))


def test_a_block_turns_by_its_tokens_places_and_without_places_not_at_all():
    x = RNG.normal(size=(1, 2, 5, 16)).astype(np.float32)
    places = np.arange(5, dtype=np.float32)[None, None, :, None] * np.ones((1, 2, 1, 1))
    bare = Block(2, 16, "gelu", 1e-5)
    params = jax.jit(bare.init)(jax.random.key(0), Tokens(x))
    params = jax.tree.map(lambda leaf: leaf + RNG.normal(0, 0.4, leaf.shape), params)

    def run(block, **fields):
        return np.asarray(jax.jit(lambda: block.apply(params, Tokens(x, **fields)).x)())

    rotary = Block(2, 16, "gelu", 1e-5, rotary=Rotary())
    expected = run(rotary, places=places)
    np.testing.assert_allclose(run(rotary, places=places + 3), expected, atol=2e-5)
    np.testing.assert_array_equal(run(rotary), run(bare))
    assert np.abs(expected - run(bare)).max() > 1e-2
    read = Block(2, 16, "gelu", 1e-5, rotary=Rotary(), cls_read=True)
    np.testing.assert_allclose(run(read, places=places), expected[:, :, :1], atol=2e-5)


def test_known_keys_are_turned_already():
    """Reading one word at a time gives what reading all at once gives."""
    x = RNG.normal(size=(1, 1, 4, 16)).astype(np.float32)
    places = np.arange(4, dtype=np.float32).reshape(1, 1, 4, 1)
    attention = Attention(2, rotary=Rotary())
    whole = Pattern(x[:, :, -1:], x, query_places=places[:, :, -1:], source_places=places)
    params = attention.init(jax.random.key(0), whole)
    expected, _ = attention.apply(params, whole)
    known = KeysValues(jnp.zeros((1, 1, 2, 4, 8)), jnp.zeros((1, 1, 2, 4, 8)))
    for index in range(4):
        word, place = x[:, :, index : index + 1], places[:, :, index : index + 1]
        step = Pattern(word, word, query_places=place, source_places=place)
        y, seen = attention.apply(params, step, known, index)
        known = KeysValues(seen.keys, seen.values)
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_merged_tokens_stand_at_the_mean_of_their_places():
    metric = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])[None, None]
    places = np.array([[0.0, 0], [0, 2], [4, 0], [4, 6]])[None, None]
    tokens = Tokens(
        jnp.ones((1, 1, 4, 2)), jnp.asarray([[[1.0, 3, 1, 1]]]), cls=0, protected=0,
        places=jnp.asarray(places),
    )  # fmt: skip
    merged = merge(tokens, match(jnp.asarray(metric), 2, first=0))
    np.testing.assert_allclose(merged.places, [[[[0, 1.5], [4, 3]]]])
    np.testing.assert_array_equal(merged.size, [[[4, 2]]])
