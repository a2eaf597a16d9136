"""TESTA: whole frames merge by vote; on CLIP it starts as CLIP, and LoRA alone trains it."""

from collections import Counter

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
    random_params,
    small,
    videos,
)

from vlt.adapters.lora import LoRA
from vlt.merging.testa import TESTA, merge_frames
from vlt.model_io.build import abstract_params
from vlt.models.dual_encoder import DualEncoder
from vlt.models.sizes import SIZES
from vlt.models.tokens import Tokens
from vlt.training.rules import partition

SMALL = TESTA(layers=(1, 2), r=2)


def naive(x, size, keys, r):
    """One video: tokens x [t, n, d], size [t, n], keys [p, t, e] -> x, size and frames merged."""
    unit = keys / np.linalg.norm(keys, axis=-1, keepdims=True)
    even, odd = range(0, len(x), 2), range(1, len(x), 2)
    entries = []
    for i in even:
        scores = [[patch[i] @ patch[j] for j in odd] for patch in unit]
        votes = Counter(int(np.argmax(row)) for row in scores)
        into = min(k for k in votes if votes[k] == max(votes.values()))
        entries.append((min(max(row) for row in scores), i, odd[into]))
    merged = sorted(entries, reverse=True)[:r]
    groups = [[i] for i in even if i not in [source for _, source, _ in merged]]
    groups += [[j, *(i for _, i, into in merged if into == j)] for j in odd]
    total = [sum(size[i] for i in g) for g in groups]
    means = [
        sum(x[i] * size[i][:, None] for i in g) / sum(size[i] for i in g)[:, None] for g in groups
    ]
    return np.array(means), np.array(total), groups


@pytest.mark.parametrize(("t", "r"), [(7, 3), (4, 2)])
def test_frames_merge_as_in_a_naive_rewrite(t, r):
    rng = np.random.default_rng(t)
    x = rng.normal(size=(2, t, 5, 4)).astype(np.float32)
    size = rng.integers(1, 4, (2, t, 5)).astype(np.float32)
    members = rng.normal(size=(2, t, 5, 3)).astype(np.float32)
    keys = rng.normal(size=(2, 4, t, 6)).astype(np.float32)
    tokens = Tokens(*(jnp.asarray(a) for a in (x, size, members)))
    after = jax.jit(merge_frames, static_argnums=2)(tokens, keys, r)
    assert (after.x.shape, after.cls, after.protected) == ((2, t - r, 5, 4), 1, 1)
    for b in range(2):
        mean, total, groups = naive(x[b], size[b], keys[b], r)
        np.testing.assert_allclose(after.x[b], mean, atol=1e-6)
        np.testing.assert_array_equal(after.size[b], total)
        held = [members[b][g].sum(0) for g in groups]
        np.testing.assert_allclose(after.members[b], held, atol=1e-6)


@pytest.mark.slow
def test_starts_as_clip_and_lora_folds_into_it():
    """Without merging, temporal attention outputs zero while LoRA's updates are zero."""
    model, bare = small(TESTA((1, 2), 0, 0), LoRA(2)), small()
    params = random_params(model)
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: 0 * x if "lora_b" in str(path[-1]) else x, params
    )
    params = model.methods[0].init_from_backbone(params, SPEC)
    expected = embed(bare, params, videos())
    np.testing.assert_allclose(embed(model, params, videos()), expected, atol=1e-6)
    params["visual"]["blocks_2"]["testa"]["value"]["lora_b"] += 0.5
    trained = embed(model, params, videos())
    assert jnp.abs(trained - expected).max() > 1e-3
    _, folded = model.methods[1].fold_for_inference(params)
    deployed = embed(small(model.methods[0]), folded, videos())
    np.testing.assert_allclose(deployed, trained, atol=1e-5)


def test_copies():
    params = random_params(small(SMALL))
    block = SMALL.init_from_backbone(params, SPEC)["visual"]["blocks_1"]
    temporal, attention = block["testa"], block["attention"]
    for name in ("query", "key"):
        np.testing.assert_array_equal(temporal[name]["bias"], attention[name]["bias"])
        np.testing.assert_array_equal(temporal[name]["kernel"], attention[name]["kernel"])
    np.testing.assert_array_equal(temporal["out"]["kernel"], attention["out"]["kernel"])
    for leaf in (temporal["value"]["kernel"], temporal["value"]["bias"], temporal["out"]["bias"]):
        assert not np.asarray(leaf).any()
    np.testing.assert_array_equal(block["testa_norm"]["scale"], block["norm1"]["scale"])


@pytest.mark.slow
def test_lora_is_all_that_is_trained():
    model = DualEncoder(SIZES["clip_b32"], (LoRA(), TESTA()), frames=12)
    params = abstract_params(model)
    trained, _ = partition(params, ((r".*/lora_[ab]", {}), (".*", "frozen")))
    assert sum(leaf.size for leaf in jax.tree.leaves(trained)) == 589_824  # printed 0.59M


def test_tokens_and_price():
    layers, gmacs = layers_and_gmacs("clip_b32", 12, testa={})
    frames = [12] * 7 + [11, 10, 9, 8, 8]
    assert layers == [(t, 48 - 2 * i) for i, t in enumerate(frames)]
    assert gmacs == pytest.approx(40.453, abs=1e-3)  # printed 40.6


def test_whole_model():
    check_whole_model(SMALL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "testa.layers must be blocks from 0 to 3, each once, ascending; got (7, 8, 9, 10)"),
        ({"layers": (1,), "r": 4}, "testa.r=4: layer 3 has 5 tokens"),
        ({"layers": (1,), "frame_r": -1}, "testa.frame_r must be >= 0, got -1"),
        ({"layers": (0, 1), "frame_r": 2}, "block 1 has 2 frames, of which at most 1 merge"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ValueError) as error:
        TESTA(**options).check(SPEC, FRAMES)
    assert message in str(error.value)
