"""Products with kernels in fewer bits, with a CPU form for few rows, as for a next token."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

FEW_ROWS = 8
PART = 2**17  # weights of a kernel that fit into a core's cache in float32


def promoted(x: jax.Array, kernel: jax.Array, bias: jax.Array | None, dtype: Any) -> list[Any]:
    """A layer's arrays cast to `dtype`; a narrower kernel is left for `dot_general` to widen."""
    if kernel.dtype.itemsize >= jnp.dtype(dtype).itemsize:
        return list(promote_dtype(x, kernel, bias, dtype=dtype))
    x, bias = promote_dtype(x, bias, dtype=dtype)
    return [x, kernel, bias]


def dot_general(x: jax.Array, kernel: jax.Array, dimensions: Any, **options: Any) -> jax.Array:
    """`jax.lax.dot_general`, except for few rows [..., d] and a kernel [d, e] in few bits on CPUs.

    A kernel in fewer bits than x is widened.

    On CPUs XLA writes the whole kernel out in float32 before it multiplies, which takes three times
    as long as reading it; a sum of products reads it once and widens it on the way.
    """

    def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
        found = jax.lax.dot_general(x, kernel.astype(x.dtype), dimensions, **options)
        return found

    rows = math.prod(x.shape[:-1])
    last = ((x.ndim - 1,), (0,)), ((), ())
    if kernel.dtype.itemsize > 2 or kernel.ndim != 2 or rows > FEW_ROWS or dimensions != last:
        return product(x, kernel)
    return jax.lax.platform_dependent(x, kernel, cpu=_sum_of_products, default=product)


def _sum_of_products(x: jax.Array, kernel: jax.Array) -> jax.Array:
    # Else kernels are cast to float32 once, before a loop over tokens, which reads twice as much.
    x, kernel = jax.lax.optimization_barrier((x, kernel))
    rows = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
    found = _by_parts(rows, kernel) if kernel.dtype == jnp.int8 else _widened(rows, kernel)
    return found.reshape(*x.shape[:-1], kernel.shape[1]).astype(x.dtype)


def _widened(rows: jax.Array, kernel: jax.Array) -> jax.Array:
    if len(rows) == 1:
        return (in_float32(kernel) * rows[0][:, None]).sum(0)
    return (kernel.astype(jnp.float32)[:, None] * rows.T[..., None]).sum(0)


@jax.custom_jvp
def in_float32(kernel: jax.Array) -> jax.Array:
    """A kernel in float32; bfloat16 becomes the upper half of its bits, which a CPU shifts faster
    than XLA converts."""
    if kernel.dtype != jnp.bfloat16:
        return kernel.astype(jnp.float32)
    bits = jax.lax.bitcast_convert_type(kernel, jnp.uint16).astype(jnp.uint32) << 16
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


@in_float32.defjvp
def _in_float32_jvp(kernels: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    return in_float32(*kernels), tangents[0].astype(jnp.float32)


def _by_parts(rows: jax.Array, kernel: jax.Array) -> jax.Array:
    """Multiplies with parts of a kernel, which stay in cache while widened and read by each row."""
    parts = min(-(-kernel.size // PART), kernel.shape[0])
    while kernel.shape[0] % parts:
        parts += 1
    size = kernel.shape[0] // parts

    def add(part: jax.Array, found: jax.Array) -> jax.Array:
        wide = jax.lax.dynamic_slice_in_dim(kernel, part * size, size).astype(jnp.float32)
        some = jax.lax.dynamic_slice_in_dim(rows, part * size, size, axis=1)
        # One row at a time: a product with more rows packs its kernel first.
        return found + jnp.concatenate([row @ wide for row in jnp.split(some, len(rows))])

    start = jnp.zeros((len(rows), kernel.shape[1]), jnp.float32)
    return jax.lax.fori_loop(0, parts, add, start)
