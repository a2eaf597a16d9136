"""Products of few rows with a matrix, as a decoder's next token needs them, on CPUs."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

FEW_ROWS = 8


def dot_general(x: jax.Array, kernel: jax.Array, dimensions: Any, **options: Any) -> jax.Array:
    """`jax.lax.dot_general`, but for few rows [..., d] and a kernel [d, e] of 16 bits on a CPU.

    There XLA writes the whole kernel out in float32 before it multiplies, which takes three times
    as long as reading it; a sum of products reads it once and turns it on the way.
    """
    product = functools.partial(jax.lax.dot_general, dimension_numbers=dimensions, **options)
    rows = math.prod(x.shape[:-1])
    last = ((x.ndim - 1,), (0,)), ((), ())
    if kernel.dtype != jnp.bfloat16 or kernel.ndim != 2 or rows > FEW_ROWS or dimensions != last:
        return product(x, kernel)
    return jax.lax.platform_dependent(x, kernel, cpu=_sum_of_products, default=product)


def _sum_of_products(x: jax.Array, kernel: jax.Array) -> jax.Array:
    # Else kernels are turned to float32 once before a loop over tokens, which reads twice as much.
    x, kernel = jax.lax.optimization_barrier((x, kernel))
    rows = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
    wide = kernel.astype(jnp.float32)
    if len(rows) == 1:
        found = (wide * rows[0][:, None]).sum(0)
    else:
        found = (wide[:, None] * rows.T[..., None]).sum(0)
    return found.reshape(*x.shape[:-1], kernel.shape[1]).astype(x.dtype)
