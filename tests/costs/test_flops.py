"""Counts against closed forms written out by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from vlt.costs.flops import Counts, count
from vlt.models.sizes import SIZES
from vlt.models.vit import VisionTransformer


def spec(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def module_counts(module: nn.Module, *shape: int) -> Counts:
    variables = jax.eval_shape(module.init, jax.random.key(0), spec(*shape))
    return count(module.apply, variables, spec(*shape))


def test_dense_is_tokens_times_kernel() -> None:
    assert module_counts(nn.Dense(7), 2, 3, 5) == Counts(linear=2 * 3 * 5 * 7)


def test_batched_product_counts_batch_free_and_contracted_dimensions() -> None:
    def scores(q, k):
        return jnp.einsum("bqhd,bkhd->bhqk", q, k)

    assert count(scores, spec(2, 5, 3, 4), spec(2, 6, 3, 4)) == Counts(product=2 * 3 * 5 * 6 * 4)


def test_patch_convolution() -> None:
    patches = nn.Conv(16, (4, 4), strides=(4, 4), padding="VALID", use_bias=False)
    assert module_counts(patches, 2, 8, 12, 3) == Counts(convolution=2 * (2 * 3) * (4 * 4 * 3) * 16)


def test_grouped_convolution_reads_its_own_channels_only() -> None:
    depthwise = nn.Conv(6, (3,), padding="VALID", feature_group_count=6)
    assert module_counts(depthwise, 1, 10, 6) == Counts(convolution=8 * 6 * 3)


def test_attention_has_four_projections_and_two_products() -> None:
    n, d = 9, 12
    attention = nn.MultiHeadDotProductAttention(num_heads=3)
    assert module_counts(attention, 2, n, d) == Counts(
        linear=2 * 4 * n * d * d, product=2 * 2 * n * n * d
    )


def own_layer_norm(x: jax.Array) -> jax.Array:
    return (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_flax_layer_norm_is_five_per_element(fast: bool, dtype: jnp.dtype) -> None:
    norm = nn.LayerNorm(use_fast_variance=fast, dtype=dtype)
    assert module_counts(norm, 2, 3, 8) == Counts(layer_norm=5 * 2 * 3 * 8)


@pytest.mark.parametrize("norm", [own_layer_norm, jax.jit(own_layer_norm), jax.nn.standardize])
def test_hand_written_layer_norm_is_seen(norm) -> None:
    assert count(norm, spec(4, 6)) == Counts(layer_norm=5 * 4 * 6)


def test_two_norms_in_a_row_count_once_each() -> None:
    assert count(lambda x: own_layer_norm(own_layer_norm(x)), spec(4, 6)).layer_norm == 2 * 5 * 24


@pytest.mark.parametrize(
    "squares",
    [
        lambda y: (y * y).sum(-1, keepdims=True),
        jax.jit(lambda y: (y * y).sum(-1, keepdims=True)),
        lambda y: jnp.einsum("nd,nd->n", y, y)[:, None],
    ],
)
def test_l2_normalisation_of_a_normed_array_is_free(squares) -> None:
    def embed(x):
        y = own_layer_norm(x)
        return y * jax.lax.rsqrt(squares(y))

    assert count(embed, spec(4, 6)).layer_norm == 5 * 24


def test_softmax_activations_and_look_ups_are_free() -> None:
    def free(table, ids, x):
        return table[ids].sum() + jax.nn.softmax(x).sum() + jax.nn.gelu(x, approximate=False).sum()

    assert count(free, spec(10, 4), jax.ShapeDtypeStruct((3,), jnp.int32), spec(5, 5)) == Counts()


def test_one_hot_product_is_a_product() -> None:
    def take(table, ids):
        return jax.nn.one_hot(ids, 10) @ table

    ids = jax.ShapeDtypeStruct((3,), jnp.int32)
    assert count(take, spec(10, 4), ids) == Counts(linear=3 * 10 * 4)


def square_matmul(x: jax.Array) -> jax.Array:
    return x @ x


def scanned(x: jax.Array) -> jax.Array:
    return jax.lax.scan(lambda carry, _: (carry @ carry, None), x, length=7)[0]


def branched(x: jax.Array) -> jax.Array:
    return jax.lax.cond(x[0, 0] > 0, lambda y: y @ y @ y, lambda y: y @ y, x)


@jax.custom_jvp
def with_own_jvp(x: jax.Array) -> jax.Array:
    return x @ x


@jax.custom_vjp
def with_own_vjp(x: jax.Array) -> jax.Array:
    return x @ x


with_own_jvp.defjvp(lambda primals, tangents: (primals[0] @ primals[0], tangents[0]))
with_own_vjp.defvjp(lambda x: (x @ x, x), lambda x, g: (g,))


@pytest.mark.parametrize(
    ("fn", "products"),
    [
        (jax.jit(square_matmul), 1),
        (jax.checkpoint(square_matmul), 1),
        (with_own_jvp, 1),
        (with_own_vjp, 1),
        (scanned, 7),
        (branched, 2),
        (lambda x: jax.lax.fori_loop(0, 3, lambda i, y: y @ y, x), 3),
        (lambda x: (x @ x, x @ x @ x)[0], 1),
        (lambda x: jax.jit(lambda y: (y @ y, y @ y @ y))(x)[0], 1),
        (jax.grad(lambda x: (x @ x).sum()), 2),
    ],
    ids=["jit", "remat", "jvp", "vjp", "scan", "cond", "fori", "dead", "dead-in-jit", "grad"],
)
def test_nested_programs(fn, products: int) -> None:
    assert count(fn, spec(4, 4)) == Counts(linear=products * 4**3)


def test_while_with_work_is_refused_and_without_is_free() -> None:
    def loop(step):
        return lambda x: jax.lax.while_loop(lambda y: y[0, 0] < 1, step, x)

    assert count(loop(lambda y: y + 1), spec(4, 4)) == Counts()
    with pytest.raises(ValueError, match="while loop of unknown length"):
        count(loop(lambda y: y @ y), spec(4, 4))


def test_totals() -> None:
    counts = Counts(linear=60, product=40, convolution=20, layer_norm=3)
    assert (counts.multiply_adds, counts.total) == (120, 123)
    assert counts + counts * 2 == Counts(180, 120, 60, 9)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("size", "frames", "multiply_adds", "total"),
    [
        ("clip_b32", 12, 52.906, 52.963),
        ("clip_b16", 12, 210.761, 210.988),
        ("clip_l14", 8, 648.1, None),
    ],
)
def test_clip_towers_cost_what_is_published(size, frames, multiply_adds, total) -> None:
    dual = SIZES[size]
    tower = VisionTransformer(dual.visual, dual.embed_dim, cls_only=False)
    counts = module_counts(tower, 1, frames, 224, 224, 3)
    assert counts.multiply_adds / 1e9 == pytest.approx(multiply_adds, rel=1e-4)
    assert total is None or counts.total / 1e9 == pytest.approx(total, abs=5e-4)


def test_reading_only_cls_saves_most_of_the_last_block() -> None:
    """It still computes keys and values of all n tokens, and everything else for one."""
    dual = SIZES["clip_b32"]
    spec = dual.visual
    full, saved = (
        module_counts(VisionTransformer(spec, dual.embed_dim, cls_only=flag), 1, 2, 224, 224, 3)
        for flag in (False, True)
    )
    n, d = 1 + spec.patches, spec.width
    per_frame = (n - 1) * (2 * d * d + 2 * n * d + 2 * d * spec.mlp_width)
    assert full.multiply_adds - saved.multiply_adds == 2 * per_frame
    assert full.layer_norm - saved.layer_norm == 2 * 5 * (n - 1) * d
