"""Attention's kernel, interpreted, equals plain attention in its output and every gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlt.adapters.lora import LoRA
from vlt.adapters.neighbour_attention import NeighbourAttention
from vlt.costs.flops import count
from vlt.merging.token_mixing import selected
from vlt.models import fused
from vlt.models.attention import LOWEST, Attention, causal_bias
from vlt.models.fused import implementation
from vlt.models.points import Method
from vlt.models.rotary import Rotary
from vlt.models.tokens import Pattern, Tokens

RNG = np.random.default_rng(0)
TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}  # relative to the largest value


def tokens(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def plain(count=20, width=128, rows=(2, 2)):
    x = tokens(*rows, count, width)
    return Pattern(x, x)


def sizes(count=20, width=128, rows=(2, 2)):
    """A pattern with the sizes of merged tokens, as in TempMe and ToMe."""
    size = jnp.asarray(RNG.integers(1, 9, (*rows, count)), jnp.float32)
    return plain(count, width, rows).add_bias(jnp.log(size)[:, :, None, None])


def causal(count=20, width=128, rows=(2, 1)):
    return plain(count, width, rows).add_bias(causal_bias(count))


def mixed(own_cls=False, frames=2, count=17, width=128):
    """Token Mixing: queries of all frames, few keys, scaled logits of other frames."""
    index = selected(frames, count)
    other = (index // count != np.arange(frames)[:, None]).repeat(count, axis=0)
    scale = jnp.asarray(np.where(other, 0.8, 1), jnp.float32)
    bias = jnp.asarray(np.where(other & (index % count == 0), LOWEST, 0), jnp.float32)
    source = tokens(2, 1, frames * count, width)
    found = Pattern(source, source[:, :, index], scale=scale)
    return found.add_bias(bias) if own_cls else found


def words_read(count=20, asked=20, width=128):
    """BERT's and a connector's: some keys are padding, and the queries are other tokens."""
    read = jnp.arange(count) < jnp.asarray([count, count - 5])[:, None]
    bias = jnp.where(read, 0.0, LOWEST)[:, None, None, None]
    return Pattern(tokens(2, 1, asked, width), tokens(2, 1, count, width), bias)


def neighbours(missing, frames=3, count=16, width=128):
    found = plain(count, width, (2, frames))
    method = NeighbourAttention(missing=missing)
    return method.attention_pattern(None, Tokens(found.source), found)


def both(pattern, heads, dtype="float32", dropout=0.0):
    """[plain, fused]: outputs, and gradients with respect to the inputs and the leaves."""
    module = Attention(heads, dtype=jnp.dtype(dtype), dropout=dropout)
    params = jax.jit(Attention(heads).init)(jax.random.key(0), pattern)
    drawn = {"dropout": jax.random.key(1)}
    of_keys = pattern.bias if pattern.bias is not None and pattern.bias.ndim == 5 else None
    given = params, pattern.queries, pattern.source, of_keys
    same = pattern.queries is pattern.source

    def loss(params, queries, source, key_bias):
        read = pattern.replace(queries=queries, source=queries if same else source)
        read = read if key_bias is None else read.replace(bias=key_bias)
        y = module.apply(params, read, rngs=drawn)[0].astype(jnp.float32)
        return (y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)).sum(), y

    def found(name):
        with implementation(name):
            program = jax.value_and_grad(loss, (0, 1, 2, 3)[: 3 + (of_keys is not None)], True)
            text = str(jax.make_jaxpr(program)(*given))
            for kernel in ("attention_forward", "attention_backward"):
                assert (kernel in text) == (name == "fused"), name
            (_, y), gradients = jax.jit(program)(*given)
        return [y, *gradients]

    return found("plain"), found("fused")


def rms(x):
    return float(jnp.sqrt(jnp.mean(jnp.square(x))))


def check(pattern, heads, dtype="float32", dropout=0.0):
    """In half precision, sums of many gradients are rounded so far that plain attention, too, is
    off by more than the tolerance: then the kernel must be as near to the exact numbers as it."""
    expected, found = both(pattern, heads, dtype, dropout)
    exact = expected if dtype == "float32" else both(pattern, heads, dropout=dropout)[0]
    for one, plain_one, given in zip(exact, expected, found, strict=True):
        # Over all leaves, since the gradient of a key's bias is only rounding error.
        largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(one))
        trees = map(jax.tree.leaves, (one, plain_one, given))
        for x, a, b in zip(*trees, strict=True):
            if rms(b - x) > 1.1 * rms(a - x):
                np.testing.assert_allclose(b, x, 0, TOLERANCE[dtype] * largest)


CASES = {
    "two heads beside each other": (plain, 2, {}),
    "sizes": (sizes, 2, {}),
    "scale and bias of all rows": (mixed, 2, {"own_cls": True}),
    "causal, a head of all channels": (causal, 1, {}),
    "three chunks, heads of 24": (plain, 4, {"count": 260, "width": 96, "rows": (1, 1)}),
}
PATTERNS = {
    "CLIP B/32": (plain, 12, {"count": 50, "width": 768, "rows": (1, 12)}),
    "CLIP B/16": (plain, 12, {"count": 197, "width": 768, "rows": (1, 2)}),
    "CLIP L/14": (plain, 16, {"count": 257, "width": 1024, "rows": (1, 1)}),
    "EVA-CLIP G": (plain, 16, {"count": 257, "width": 1408, "rows": (1, 1)}),
    "ViCLIP": (plain, 12, {"count": 1569, "width": 768, "rows": (1, 1)}),
    "TempMe": (sizes, 12, {"count": 187, "width": 768, "rows": (1, 2)}),
    "TempMe, all clips joined": (sizes, 12, {"count": 591, "width": 768, "rows": (1, 1)}),
    "CLIP's texts": (causal, 8, {"count": 77, "width": 512, "rows": (3, 1)}),
    "Token Mixing": (mixed, 12, {"frames": 8, "count": 197, "width": 768}),
    "Token Mixing, own CLS": (mixed, 12, {"own_cls": True, "frames": 4, "count": 50, "width": 768}),
    "BERT": (words_read, 12, {"count": 40, "asked": 40, "width": 768}),
    "BERT reads a video": (words_read, 12, {"count": 788, "asked": 40, "width": 768}),
    "neighbours, zeros": (neighbours, 2, {"missing": "zeros"}),
    "neighbours, masked": (neighbours, 2, {"missing": "masked"}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_kernel_is_plain_attention(name):
    pattern, heads, options = CASES[name]
    check(pattern(**options), heads)


@pytest.mark.parametrize(
    ("pattern", "heads"),
    [
        (lambda: words_read(40, 20), 2),
        pytest.param(lambda: plain(260, 96, (1, 1)), 4, marks=pytest.mark.slow),
    ],
    ids=["texts that read", "three chunks, heads of 24"],
)
def test_dropout_drops_the_same_of_both(pattern, heads):
    check(pattern(), heads, dropout=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", PATTERNS)
def test_every_pattern_of_a_config(name, dtype):
    pattern, heads, options = PATTERNS[name]
    check(pattern(**options), heads, dtype, dropout=0.1 * name.startswith("BERT"))


def chosen(pattern, name="fused", heads=2, dtype=jnp.float32, platform=None):
    """Whether a fused implementation takes a pattern."""

    def apart(x):
        b, g, n, d = x.shape
        return jax.ShapeDtypeStruct((b, g, heads, n, d // heads), dtype)

    with implementation(name):
        return fused.fused(apart(pattern.queries), apart(pattern.source), pattern) is not None


def test_what_the_kernel_does_not_take_is_plain():
    assert chosen(plain()) and not chosen(plain(), "plain")
    assert not chosen(plain(), "auto"), "a CPU has what it had"
    assert not chosen(plain(count=15)), "too few tokens"
    assert not chosen(plain().replace(key_weight=jnp.ones((2, 2, 20)))), "learned, may be 0"
    assert not chosen(plain().add_bias(jnp.zeros((2, 2, 1, 20, 20)))), "a bias of every query"
    assert not chosen(plain().replace(scale=jnp.ones((2, 1, 1, 1, 20)))), "a scale of rows"
    assert not chosen(plain(count=2**13)), "keys that have no room on chip"


class Twice(Method):
    def projection(self, dense, x, y):
        return 2 * y


@pytest.mark.parametrize(
    ("pattern", "methods", "products"),
    [(plain, (), 2), (words_read, (), 4), (plain, (LoRA(2),), 4), (plain, (Twice(),), 4)],
    ids=["of the same tokens", "of two", "with LoRA", "with a method that needs them apart"],
)
def test_queries_keys_and_values_of_the_same_tokens_are_one_product(pattern, methods, products):
    """And the layer after the heads is another, as are LoRA's two."""
    module, given = Attention(2, methods=methods, name="attention"), pattern()
    params = jax.jit(module.init)(jax.random.key(0), given)
    with implementation("fused"):
        program = jax.make_jaxpr(lambda params: module.apply(params, given)[0])(params)
    in_kernel = 2 * 2  # of each head
    assert str(program).count("dot_general[") == products + in_kernel


PLACES = jnp.arange(20)[None, None, :, None]


@pytest.mark.parametrize(
    "options",
    [
        {"methods": (LoRA(2),)},
        {"methods": (LoRA(2, ("query", "value"), share_a=False, alpha=4),)},
        {"rotary": Rotary()},
        {"channel_scale": True},
    ],
    ids=["LoRA of a shared A", "LoRA", "turned heads", "scaled channels"],
)
def test_what_else_a_projection_has_is_the_same_beside_the_kernel(options):
    module, x = Attention(2, **options, name="attention"), plain().source

    def pattern(x):
        return Pattern(x, x, query_places=PLACES, source_places=PLACES)

    params = jax.jit(module.init)(jax.random.key(0), pattern(x))
    params = jax.tree.map(lambda leaf: tokens(*leaf.shape) / 8, params)

    def found(name):
        def loss(params, x):
            y = module.apply(params, pattern(x))[0]
            return (y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)).sum()

        with implementation(name):
            return jax.tree.leaves(jax.jit(jax.value_and_grad(loss, (0, 1)))(params, x))

    for expected, got in zip(found("plain"), found("fused"), strict=True):
        largest = float(jnp.abs(expected).max())
        np.testing.assert_allclose(got, expected, 0, max(2e-5 * largest, 1e-5))


def test_platforms(monkeypatch):
    monkeypatch.setattr(fused, "traced_for", lambda: "tpu")
    assert chosen(plain(), "auto") == (jax.device_count() == 1)
    monkeypatch.setattr(fused, "traced_for", lambda: "gpu")
    assert chosen(plain(), "auto", dtype=jnp.bfloat16)
    assert not chosen(plain(), "auto"), "cuDNN has 16 bits alone"
    assert not chosen(sizes(), "auto", dtype=jnp.bfloat16), "and no bias"
    assert not chosen(plain(width=72), "auto", heads=6, dtype=jnp.bfloat16), "heads of 12"


def test_cudnn_is_asked_in_its_own_layout(monkeypatch):
    def attention(query, key, value, implementation):
        assert implementation == "cudnn" and query.shape == (4, 20, 2, 64)
        return jax.nn.standardize(query)  # each head by itself

    monkeypatch.setattr(jax.nn, "dot_product_attention", attention)
    x = tokens(2, 2, 20, 128)
    expected = jax.nn.standardize(x.reshape(2, 2, 20, 2, 64)).reshape(x.shape)
    np.testing.assert_array_equal(fused._cudnn(2)(x, x, x), expected)


def test_a_learned_scale_of_all_rows_is_refused():
    pattern, module = mixed(), Attention(2)
    params = jax.eval_shape(module.init, jax.random.key(0), pattern)

    def loss(scale, params):
        return module.apply(params, pattern.replace(scale=scale))[0].sum()

    with implementation("fused"), pytest.raises(ValueError, match="take model.attention='plain'"):
        jax.eval_shape(jax.grad(loss), pattern.scale, params)


def test_probabilities_are_there_beside_the_kernel():
    pattern, module = sizes(), Attention(2)
    params = jax.jit(module.init)(jax.random.key(0), pattern)
    found = []
    for name in ("plain", "fused"):
        with implementation(name):
            found.append(jax.jit(lambda p: module.apply(p, pattern)[1].probabilities())(params))
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("pattern", [plain(), sizes(), mixed()])
def test_the_kernels_operations_are_declared(pattern):
    module = Attention(2)
    params = jax.eval_shape(module.init, jax.random.key(0), pattern)
    counted = []
    for name in ("plain", "fused"):
        with implementation(name):
            counted.append(count(lambda p: module.apply(p, pattern)[0], params))
    assert counted[0] == counted[1] and counted[0].product
