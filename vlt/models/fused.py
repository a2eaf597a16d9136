"""Which attention never writes its logits out, and how it is split over a mesh.

| platform | what computes it | of what |
|---|---|---|
| TPU | `vlt.models.attention_kernel` | at least 16 queries and keys, which fit on chip |
| GPU | cuDNN, by `jax.nn.dot_product_attention` | 16 bits, heads of a multiple of 8 channels, |
| | | at most 128, nothing that changes logits |

Neither knows dropout, learned weights of keys, or a bias of its own for every query of every row;
those, other shapes and CPUs have attention as `vlt.models.attention` writes it.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from vlt.models.platforms import traced_for
from vlt.models.tokens import Attend, Pattern

IMPLEMENTATIONS = ("auto", "plain", "fused")
# `model.attention` of the model whose program is traced; programs of another are traced anew.
implementation = jax.make_user_context("auto")

FEWEST = 16  # queries and keys of a kernel: fewer leave a chip's tiles empty
CUDNN_CHANNELS = 128  # of a head


def fused(query: jax.Array, key: jax.Array, pattern: Pattern) -> Attend | None:
    """What computes attention of heads [b, g, h, q|m, c] without writing logits out, if anything.

    It takes queries, keys and values [b, g, q|m, h * c], and gives what queries find in this form.

    By `implementation`: `auto`, where the platform has it; `plain`, nothing; `fused`, the TPU's
    kernel on every platform, interpreted where it is none.
    """
    chosen, platform = implementation.value, traced_for()
    if chosen == "plain" or (chosen == "auto" and platform == "cpu"):
        return None
    if chosen == "auto" and platform in ("gpu", "cuda"):
        return _cudnn(query.shape[2]) if _cudnn_takes(query, key, pattern) else None
    if chosen == "auto" and platform != "tpu":
        return None
    return _kernel(query, key, pattern, interpret=platform != "tpu")


def _cudnn_takes(query: jax.Array, key: jax.Array, pattern: Pattern) -> bool:
    channels = query.shape[-1]
    narrow = query.dtype in (jnp.bfloat16, jnp.float16) and key.dtype == query.dtype
    return pattern.plain and narrow and channels % 8 == 0 and channels <= CUDNN_CHANNELS


def _cudnn(heads: int) -> Attend:
    def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        apart = (x.reshape(-1, x.shape[2], heads, x.shape[3] // heads) for x in (query, key, value))
        y = jax.nn.dot_product_attention(*apart, implementation="cudnn")
        return y.reshape(query.shape)

    return attend


def _kernel(query: jax.Array, key: jax.Array, pattern: Pattern, interpret: bool) -> Attend | None:
    """The TPU's kernel, for what it takes."""
    terms, channels = _terms(pattern, query, key), query.shape[-1]
    if terms is None or min(query.shape[-2], key.shape[-2]) < FEWEST:
        return None
    split = _splitting(query, interpret)
    if split is None:
        return None
    # Where no TPU is, what belongs to one is not imported either.
    from vlt.models import attention_kernel

    scale, bias, _ = terms
    if not attention_kernel.fits(_rows(query), _rows(key), query.shape[2], (scale, bias)):
        return None

    def local(scale: Any, bias: Any, key_bias: Any, *three: jax.Array) -> jax.Array:
        """On one device, [b, g, q|m, d]."""
        query, key, value = (x.reshape(-1, *x.shape[2:]) for x in three)
        own = None if key_bias is None else key_bias.reshape(-1, key_bias.shape[-1])
        terms = attention_kernel.LogitTerms(scale, bias, own)
        mine = query.shape[-1] // channels
        y = attention_kernel.attention(query, key, value, terms, mine, interpret)
        return y.reshape(three[0].shape)

    return functools.partial(split(local), *terms)


def _rows(x: jax.Array) -> jax.ShapeDtypeStruct:
    """[b, g, h, n, c], heads together: [b * g, n, h * c]."""
    b, g, h, n, c = x.shape
    return jax.ShapeDtypeStruct((b * g, n, h * c), x.dtype)


def _terms(
    pattern: Pattern, query: jax.Array, key: jax.Array
) -> tuple[jax.Array | None, jax.Array | None, jax.Array | None] | None:
    """Scale and bias [q, m] of all rows, and bias of keys [b, g, m]; None for any other pattern."""
    rows, logits = query.shape[:2], (query.shape[-2], key.shape[-2])
    if pattern.key_weight is not None:
        return None
    found: list[jax.Array | None] = []
    for x in (pattern.scale, pattern.bias):
        shape = () if x is None else (1,) * (5 - x.ndim) + x.shape
        if x is None:
            found.append(None)
        elif shape[2:4] == (1, 1) and x is pattern.bias:
            own = x.reshape(*shape[:2], shape[4]).astype(jnp.float32)
            return found[0], None, jnp.broadcast_to(own, (*rows, logits[1]))
        elif shape[:3] == (1, 1, 1):
            shared = x.reshape(shape[3:]).astype(jnp.float32)
            found.append(jnp.broadcast_to(shared, logits))
        else:
            return None
    return found[0], found[1], None


Splitting = Callable[[Callable[..., jax.Array]], Callable[..., jax.Array]]


def _splitting(query: jax.Array, interpret: bool) -> Splitting | None:
    """How a function of [b, g, q|m, d] is split over the mesh that is set; None where it cannot be.

    Without a mesh a program of several devices would have to be split by the compiler, which
    cannot look into a kernel.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return _as_it_is if interpret or jax.device_count() == 1 else None
    if mesh.size == 1 or mesh.manual_axes:
        return _as_it_is
    batch, _, _, heads = nn.logical_to_mesh_axes(("batch", None, None, "heads"))
    if query.shape[0] % _parts(mesh, batch) or query.shape[2] % _parts(mesh, heads):
        return None
    rows, tokens = PartitionSpec(batch), PartitionSpec(batch, None, None, heads)

    def split(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        return jax.shard_map(
            function,
            in_specs=(PartitionSpec(), PartitionSpec(), rows, tokens, tokens, tokens),
            out_specs=tokens,
            check_vma=False,
        )

    return split


def _parts(mesh: jax.sharding.AbstractMesh, axes: Any) -> int:
    """Into how many parts axes of the mesh split a dimension."""
    names = () if axes is None else (axes,) if isinstance(axes, str) else axes
    return math.prod(mesh.shape[axis] for axis in names)


def _as_it_is(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    return function
