"""What a step of attention's TPU kernel computes on chip, for one row of the batch and some heads.

How the grid's steps are made, and which parts of the arrays they see: `attention_kernel`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from vlt.models.on_chip import product

LANES = 128  # channels that a TPU's registers hold side by side
SUBLANES = 16  # tokens of 16-bit channels in one tile


class Terms(NamedTuple):
    """What changes logits and then probabilities, in the order of application; None for no change.

    Attributes:
      scale, bias: float32 [q, m], the same in all rows and heads; no gradient reaches them.
      key_bias: float32 [r, m].
      kept: bfloat16 [r, h, q, m], 0 for probabilities that dropout drops and 1 for others.
    """

    scale: Any = None
    bias: Any = None
    key_bias: Any = None
    kept: Any = None


class Sizes(NamedTuple):
    """Sizes of one step of the grid, whose queries are padded to whole chunks.

    Attributes:
      rows: its sequences. chunk: queries processed at a time. asked: queries without padding.
      keys: number of keys. lanes: channels of all heads in the step. channels: those of one head.
    """

    rows: int
    chunk: int
    asked: int
    keys: int
    lanes: int
    channels: int

    @property
    def chunks(self) -> int:
        """Number of chunks that cover the queries."""
        return -(-self.asked // self.chunk)

    @property
    def heads(self) -> range:
        """Indices of the heads in one step."""
        return range(self.lanes // self.channels)


def forward_step(
    sizes: Sizes, row: jax.Array, arrays: Sequence[Any], terms: Terms, outs: Sequence[Any]
) -> None:
    queries, keys, values = arrays
    key, value = keys[row], values[row]

    def one(chunk: jax.Array, carry: None) -> None:
        some = _rows(sizes, chunk)
        query, parts = queries[row, some], []
        for head in sizes.heads:
            weights, total = _weights(
                _alone(query, head, sizes), _whole(key, head, sizes), terms, some, row, sizes
            )
            left = _kept(weights, terms, row, head, chunk, sizes)
            y = product(left.astype(value.dtype), _whole(value, head, sizes), 1, 0)
            parts.append(y / total)
        outs[0][row, some] = _together(parts, sizes).astype(outs[0].dtype)

    jax.lax.fori_loop(0, sizes.chunks, one, None)


def backward_step(
    sizes: Sizes,
    row: jax.Array,
    arrays: Sequence[Any],
    terms: Terms,
    outs: Sequence[Any],
    key_sum: Any,
    value_sum: Any,
) -> None:
    queries, gradients, keys, values = arrays
    key, value = keys[row], values[row]
    key_sum[...] = jnp.zeros_like(key_sum)
    value_sum[...] = jnp.zeros_like(value_sum)
    if len(outs) > 3:
        outs[3][0, row] = jnp.zeros_like(outs[3][0, row])

    def one(chunk: jax.Array, carry: None) -> None:
        some = _rows(sizes, chunk)
        query, gradient = (_asked(x[row, some], chunk, sizes) for x in (queries, gradients))
        of_queries, of_keys, of_values = [], [], []
        for head in sizes.heads:
            own_key, own_value = _whole(key, head, sizes), _whole(value, head, sizes)
            own_query, own_gradient = _alone(query, head, sizes), _alone(gradient, head, sizes)
            weights, total = _weights(own_query, own_key, terms, some, row, sizes)
            share = weights / total
            felt = product(own_gradient, own_value, 1, 1)
            felt = _kept(felt, terms, row, head, chunk, sizes)
            felt = share * (felt - (share * felt).sum(-1, keepdims=True))
            if len(outs) > 3:
                outs[3][0, row] += felt.sum(0, keepdims=True)
            if terms.scale is not None:
                felt = felt * terms.scale[some]
            felt = (felt * sizes.channels**-0.5).astype(key.dtype)
            of_queries.append(product(felt, own_key, 1, 0))
            of_keys.append(product(felt, _whole(query, head, sizes), 0, 0))
            left = _kept(share, terms, row, head, chunk, sizes)
            of_values.append(
                product(left.astype(gradient.dtype), _whole(gradient, head, sizes), 0, 0)
            )
        outs[0][row, some] = _together(of_queries, sizes).astype(outs[0].dtype)
        key_sum[...] += _together(of_keys, sizes)
        value_sum[...] += _together(of_values, sizes)

    jax.lax.fori_loop(0, sizes.chunks, one, None)
    outs[1][row] = key_sum[...].astype(outs[1].dtype)
    outs[2][row] = value_sum[...].astype(outs[2].dtype)


def _weights(
    query: jax.Array, key: jax.Array, terms: Terms, some: Any, row: jax.Array, sizes: Sizes
) -> tuple[jax.Array, jax.Array]:
    """Unnormalised softmax [chunk, m], and the sums to divide it by."""
    logits = product(query, key, 1, 1) * sizes.channels**-0.5
    if terms.scale is not None:
        logits = logits * terms.scale[some]
    if terms.bias is not None:
        logits = logits + terms.bias[some]
    if terms.key_bias is not None:
        logits = logits + terms.key_bias[row]
    weights = jnp.exp(logits - logits.max(-1, keepdims=True))
    return weights, weights.sum(-1, keepdims=True)


def _kept(
    x: jax.Array, terms: Terms, row: jax.Array, head: int, chunk: jax.Array, sizes: Sizes
) -> jax.Array:
    """x [chunk, m], with 0 for what dropout drops."""
    if terms.kept is None:
        return x
    return x * _asked(terms.kept[row, head, _rows(sizes, chunk)], chunk, sizes).astype(x.dtype)


def _rows(sizes: Sizes, chunk: jax.Array) -> Any:
    return pl.ds(pl.multiple_of(chunk * sizes.chunk, SUBLANES), sizes.chunk)


def _asked(x: jax.Array, chunk: jax.Array, sizes: Sizes) -> jax.Array:
    """A chunk [n, ...] with 0 in the rows after the last query."""
    place = chunk * sizes.chunk + jax.lax.broadcasted_iota(jnp.int32, (sizes.chunk, 1), 0)
    return jnp.where(place < sizes.asked, x, jnp.zeros_like(x))


# Where lanes hold several heads, one is selected by setting the channels of the others to 0 on one
# side of a product: as fast as a product of fewer channels, and nothing moves across lanes.


def _alone(x: jax.Array, head: int, sizes: Sizes) -> jax.Array:
    """A head's channels, [n, lanes] with those of other heads set to 0, or alone [n, channels]."""
    if sizes.lanes == LANES != sizes.channels:
        return jnp.where(_of_head(head, sizes), x, jnp.zeros_like(x))
    return x[:, head * sizes.channels : (head + 1) * sizes.channels]


def _whole(x: jax.Array, head: int, sizes: Sizes) -> jax.Array:
    """The other operand of a product with `_alone`."""
    return x if sizes.lanes == LANES else _alone(x, head, sizes)


def _together(parts: Sequence[jax.Array], sizes: Sizes) -> jax.Array:
    """Joins parts into [n, lanes], with each head's channels from its own part."""
    if sizes.lanes != LANES:
        return jnp.concatenate(parts, axis=-1)
    found = parts[0]
    for head, part in enumerate(parts[1:], 1):
        found = jnp.where(_of_head(head, sizes), part, found)
    return found


def _of_head(head: int, sizes: Sizes) -> jax.Array:
    place = jax.lax.broadcasted_iota(jnp.int32, (1, LANES), 1)
    return (place >= head * sizes.channels) & (place < (head + 1) * sizes.channels)
