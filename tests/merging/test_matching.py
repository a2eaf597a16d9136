"""Matching and merging against a naive rewrite, and what they preserve."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlt.merging.matching import check_r, match, merge, merge_patches, proportional_attention
from vlt.models.attention import Attention
from vlt.models.spec import VisionSpec
from vlt.models.tokens import Pattern, Tokens

B, G, D = 2, 3, 8
compiled = jax.jit(merge_patches, static_argnums=2)


def naive_merge(x, size, metric, r, cls, protected):
    """One group: x [n, d], size [n], metric [n, e] -> x, size, and which tokens each one holds."""
    sources, destinations = [], []
    for i in range(protected, len(x)):
        odd = (i - protected) % 2 == 1
        (sources if odd == (cls % 2 == 1) else destinations).append(i)
    best = []
    for i in sources:
        scores = []
        for j in destinations:
            dot = float(np.dot(metric[i], metric[j]))
            scores.append(dot / float(np.linalg.norm(metric[i]) * np.linalg.norm(metric[j])))
        best.append((max(scores), destinations[int(np.argmax(scores))], i))
    merged = sorted(best, key=lambda entry: (-entry[0], entry[2]))[:r]
    groups = [[i] for i in range(protected)]
    groups += [[i] for i in sources if i not in [source for _, _, source in merged]]
    groups += [[j, *(i for _, into, i in merged if into == j)] for j in destinations]
    means = [sum(x[i] * size[i] for i in g) / sum(size[i] for i in g) for g in groups]
    return np.array(means), np.array([sum(size[i] for i in g) for g in groups]), groups


def random_tokens(patches, cls, prompts=0, seed=0):
    rng = np.random.default_rng(seed)
    n = cls + prompts + patches
    size = rng.integers(1, 5, (B, G, n)).astype(np.float32)
    size[:, :, : cls + prompts] = 1
    x = rng.normal(size=(B, G, n, D)).astype(np.float32)
    # As if every patch token held as many of a video's patches as its size.
    members = size[..., None] * rng.dirichlet(np.ones(5), (B, G, n)).astype(np.float32)
    metric = rng.normal(size=(B, G, n, 4)).astype(np.float32)
    tokens = Tokens(jnp.asarray(x), jnp.asarray(size), jnp.asarray(members), cls, cls + prompts)
    return tokens, jnp.asarray(metric)


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("patches", "cls", "prompts", "r"),
    [(9, 1, 0, 4), (9, 2, 0, 4), (10, 1, 0, 1), (10, 4, 0, 5), (7, 3, 2, 3), (8, 2, 1, 3)],
)
def test_merging_is_that_of_a_naive_rewrite(patches, cls, prompts, r):
    tokens, metric = random_tokens(patches, cls, prompts, seed=patches * cls)
    merged = compiled(tokens, metric, r)
    assert merged.x.shape == (B, G, cls + prompts + patches - r, D)
    assert (merged.cls, merged.protected) == (cls, cls + prompts)
    for b in range(B):
        for g in range(G):
            x, size, groups = naive_merge(
                *(np.asarray(a[b, g]) for a in (tokens.x, tokens.size, metric)),
                r, cls, cls + prompts,
            )  # fmt: skip
            members = np.array(
                [sum(np.asarray(tokens.members)[b, g, i] for i in h) for h in groups]
            )
            np.testing.assert_allclose(merged.x[b, g], x, atol=1e-6)
            np.testing.assert_array_equal(merged.size[b, g], size)
            np.testing.assert_allclose(merged.members[b, g], members, atol=1e-6)


def test_tokens_without_sizes_count_once():
    tokens, metric = random_tokens(9, 1)
    bare = compiled(tokens.replace(size=None, members=None), metric, 3)
    ones = compiled(tokens.replace(size=jnp.ones_like(tokens.size)), metric, 3)
    np.testing.assert_array_equal(bare.x, ones.x)
    np.testing.assert_array_equal(bare.size, ones.size)
    assert bare.members is None


def test_sizes_and_members_are_kept():
    tokens, metric = random_tokens(9, 2, prompts=1)
    merged = compiled(tokens, metric, 4)
    np.testing.assert_array_equal(merged.size.sum(-1), tokens.size.sum(-1))
    np.testing.assert_allclose(merged.members.sum(2), tokens.members.sum(2), rtol=1e-6)
    np.testing.assert_allclose(merged.members.sum(-1), merged.size, rtol=1e-6)


def test_the_first_of_equals_wins():
    matching = match(jnp.ones((1, 1, 8, 4)), 2, first=0)
    np.testing.assert_array_equal(matching.merged[0, 0], [0, 1])
    np.testing.assert_array_equal(matching.into[0, 0], [0, 0])
    np.testing.assert_array_equal(matching.kept[0, 0], [2, 3])


def test_rows_of_zeros_are_no_nan():
    tokens, metric = random_tokens(9, 1)
    metric = metric.at[:, :, 2:5].set(0)
    assert np.isfinite(compiled(tokens, metric, 4).x).all()


def test_scores_are_float32():
    """Cosines 1 - 2e-5 and 1 are the same number in bfloat16."""
    near = np.array([[1, 6.3e-3], [1, 0], [1, 0], [1, 1]], np.float32)  # patches 0 to 3
    matching = match(jnp.asarray(near)[None, None], 1, first=0)
    assert matching.merged.item() == 1  # patch 2, whose cosine with patch 1 is exactly 1
    merged = compiled(Tokens(jnp.ones((1, 1, 5, D), jnp.bfloat16)), jnp.ones((1, 1, 5, D)), 1)
    assert (merged.x.dtype, merged.size.dtype) == (jnp.bfloat16, jnp.float32)


def test_gradient_flows_through_the_mean_and_not_through_the_matching():
    tokens, _ = random_tokens(9, 1)
    weight = jnp.asarray(np.random.default_rng(1).normal(size=(B, G, 6, D)), jnp.float32)

    def own_metric(x):
        return (merge_patches(tokens.replace(x=x), x, 4).x * weight).sum()

    fixed = match(tokens.x[:, :, 1:], 4, 1)

    def scattered(x):
        """The same mean by scatter-add, for given indices."""
        rows = jnp.arange(B)[:, None, None], jnp.arange(G)[:, None]
        size = tokens.size[..., None]
        a, b = (x * size)[:, :, 1:][:, :, 1::2], (x * size)[:, :, 1:][:, :, ::2]
        sa, sb = size[:, :, 1:][:, :, 1::2], size[:, :, 1:][:, :, ::2]
        b = b.at[(*rows, fixed.into)].add(a[(*rows, fixed.merged)])
        sb = sb.at[(*rows, fixed.into)].add(sa[(*rows, fixed.merged)])
        kept = a[(*rows, fixed.kept)] / sa[(*rows, fixed.kept)]
        return (jnp.concatenate([x[:, :, :1], kept, b / sb], 2) * weight).sum()

    ours, theirs = jax.jit(jax.grad(own_metric))(tokens.x), jax.jit(jax.grad(scattered))(tokens.x)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert (np.abs(ours).sum(-1) > 0).all()


def test_neither_merging_nor_its_gradient_scatters():
    """Scatters are slow on accelerators."""
    tokens, metric = random_tokens(9, 1)

    def loss(x, metric):
        merged = merge_patches(tokens.replace(x=x), metric, 4)
        return jnp.square(merged.x).sum()

    program = str(jax.make_jaxpr(jax.value_and_grad(loss))(tokens.x, metric))
    assert "gather" in program
    assert not re.search(r"\bscatter", program)


def test_groups_do_not_touch_each_other():
    tokens, metric = random_tokens(9, 1)
    merged = compiled(tokens, metric, 3)
    one = tokens.rearrange(lambda x: x[1:, 2:])
    np.testing.assert_array_equal(compiled(one, metric[1:, 2:], 3).x, merged.x[1:, 2:])


def test_proportional_attention_is_attention_over_the_copies():
    """A token of size 3 counts like three equal tokens."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(1, 1, 4, D)), jnp.float32)
    copies = x[:, :, np.array([0, 1, 1, 1, 2, 3, 3])]
    attention = Attention(heads=2)
    params = jax.jit(attention.init)(jax.random.key(0), Pattern(x, x))
    sized = Tokens(x, jnp.asarray([[[1.0, 3, 1, 2]]]))

    def attend(pattern):
        return jax.jit(lambda p: attention.apply(params, p)[0])(pattern)

    expected = attend(Pattern(x, copies))
    bias = jnp.asarray(rng.normal(size=(4, 4)), jnp.float32)
    sized_bias = proportional_attention(sized, Pattern(x, x, bias))
    copied_bias = Pattern(x, copies, bias[:, np.array([0, 1, 1, 1, 2, 3, 3])])
    np.testing.assert_allclose(
        attend(proportional_attention(sized, Pattern(x, x))), expected, atol=1e-6
    )
    np.testing.assert_allclose(attend(sized_bias), attend(copied_bias), atol=1e-6)
    assert np.abs(attend(Pattern(x, x)) - expected).max() > 1e-3


def test_matching_and_merging_in_two_steps():
    """The two steps that other methods share."""
    tokens, metric = random_tokens(9, 1)

    @jax.jit
    def apart(tokens, metric):
        matching = match(metric[:, :, 1:], 2, 1)
        return matching.kept, merge(tokens, matching)

    kept, merged = apart(tokens, metric)
    assert kept.shape == (B, G, 2)
    np.testing.assert_array_equal(merged.x, compiled(tokens, metric, 2).x)


VISUAL = VisionSpec(7, 1, 8, 12, 1, 8)  # 49 patches


@pytest.mark.parametrize(
    ("r", "layers", "message"),
    [
        (4, 12, r"x\.r=4: layer 11 has 6 tokens.* 5 patches.* at most 2 merge.* 12 layers is 3"),
        (25, 1, r"x\.r=25: layer 0 has 50 tokens.* at most 24 merge.* 1 layers is 24"),
        (-1, 12, r"x\.r must be >= 0, got -1"),
    ],
)
def test_more_than_there_is(r, layers, message):
    if r == 4:
        check_r("x", 3, VISUAL, layers)
    with pytest.raises(ValueError, match=message):
        check_r("x", r, VISUAL, layers)


def test_more_than_there_is_without_class_token():
    with pytest.raises(ValueError, match=r"x\.r=25: layer 0 has 49 patches, of which at most 24"):
        check_r("x", 25, dataclasses.replace(VISUAL, pool="mean"), 1)
