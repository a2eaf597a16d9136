"""What TPU kernels share: the memory that they may take on chip, and their matrix product."""

from typing import Any

import jax
import jax.numpy as jnp

MEMORY = 48 * 2**20  # bytes that a step of a kernel may need
_LEAST = 16 * 2**20  # bytes reserved in any case


def reserved(needed: int) -> int:
    """Bytes to reserve for a step that needs `needed`: the compiler keeps data of its own there."""
    return max(2 * needed, _LEAST)


def product(x: jax.Array, y: jax.Array, over: int, of: int, precision: Any = None) -> jax.Array:
    """Matrix product over axes `over` of x and `of` of y, summed in float32."""
    dimensions = (((over,), (of,)), ((), ()))
    return jax.lax.dot_general(
        x, y, dimensions, precision=precision, preferred_element_type=jnp.float32
    )
