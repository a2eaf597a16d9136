"""A number for every leaf of a tree, which any changed bit changes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vlt.pytrees.paths import by_path

_SPREAD = 2654435761  # Knuth's multiplier: neighbouring places get unlike weights


def checksums(tree: Any) -> dict[str, int]:
    """{'/'-joined path: 32-bit number} of a pytree of arrays, wherever their shards are.

    Sum of all elements' bits, each times an odd number that depends on its place, modulo 2^32:
    integers, so that one device and a thousand find the same, and no flipped bit goes unnoticed.
    """
    leaves = {path: _narrow(leaf) for path, leaf in by_path(tree).items()}
    return {path: int(number) for path, number in jax.device_get(_sums(leaves)).items()}


def _narrow(leaf: Any) -> Any:
    """A host array of 64-bit numbers as twice as many 32-bit ones, which devices support."""
    if isinstance(leaf, jax.Array) or np.asarray(leaf).itemsize < 8:
        return leaf
    return np.ascontiguousarray(leaf).reshape(*np.shape(leaf), 1).view(np.uint32)


@jax.jit
def _sums(leaves: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {path: _sum(leaf) for path, leaf in leaves.items()}


def _sum(x: jax.Array) -> jax.Array:
    bits = _bits(jnp.asarray(x))
    place = jnp.zeros((), jnp.uint32)
    for axis, size in enumerate(bits.shape):
        place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
    return (bits * (place * jnp.uint32(_SPREAD) | 1)).sum(dtype=jnp.uint32)


def _bits(x: jax.Array) -> jax.Array:
    """An array's elements as uint32."""
    if x.dtype == bool:
        return x.astype(jnp.uint32)
    unsigned = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32)
    return jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)
