"""Token merging as one TPU kernel: tokens are read once and their means written once.

A gather would write tokens in another order, which the mean then reads again, and so would its
gradient. Here the tokens of a group are on chip together, and a product with the matrix that says
which go where computes the means.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from vlt.models.on_chip import MEMORY, product, reserved
from vlt.models.splitting import split_over_mesh

STEP_TOKENS = 1024  # several smaller groups share a step of the grid
FORWARD, BACKWARD = "merge_forward", "merge_backward"


def fits(x: jax.Array, left: int) -> bool:
    """Whether a step for groups x [..., n, d], of which `left` tokens stay, fits on chip."""
    return _bytes(_most_groups(x), x, left) <= MEMORY


def _most_groups(x: jax.Array) -> int:
    """The most groups in a step of the grid."""
    return max(1, STEP_TOKENS // x.shape[-2])


def _bytes(groups: int, x: jax.Array, left: int) -> int:
    """Bytes on chip: tokens and means of this step and the next, and a matrix as it is built."""
    tokens, width = x.shape[-2:]
    moved = 2 * groups * (tokens + left) * width * x.dtype.itemsize
    return moved + 4 * left * (3 * tokens + width)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def means(
    x: jax.Array, targets: jax.Array, sizes: jax.Array, left: int, interpret: bool = False
) -> jax.Array:
    """Means [b, g, left, d] of the tokens [b, g, n, d] with the same target, weighted by sizes.

    Sums are float32. No gradient reaches the sizes.

    Args:
      targets: int32 [b, g, n], each below `left`; every index below it is a target.
      sizes: [b, g, n]. interpret: run on any platform, slowly.
    """
    return _call(_forward_step, FORWARD, x, targets, sizes, left, interpret)


def _means_forward(
    x: jax.Array, targets: jax.Array, sizes: jax.Array, left: int, interpret: bool
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return means(x, targets, sizes, left, interpret), (targets, sizes)


def _means_backward(left: int, interpret: bool, saved: Any, gradient: jax.Array) -> Any:
    targets, sizes = saved
    tokens = targets.shape[2]
    found = _call(_backward_step, BACKWARD, gradient, targets, sizes, tokens, interpret)
    return found, None, jnp.zeros_like(sizes)


means.defvjp(_means_forward, _means_backward)


def _call(
    step: Callable[..., None],
    name: str,
    x: jax.Array,
    targets: jax.Array,
    sizes: jax.Array,
    count: int,
    interpret: bool,
) -> jax.Array:
    """Runs a kernel that makes `count` tokens from those of each group, on each device's groups."""

    def local(x: jax.Array, targets: jax.Array, sizes: jax.Array) -> jax.Array:
        rows = [array.reshape(-1, *array.shape[2:]) for array in (x, targets, sizes)]
        found = _call_here(step, name, rows, count, interpret)
        return found.reshape(*x.shape[:2], *found.shape[1:])

    # Split inside the gradient's rule, so that gradients are not summed over other mesh axes.
    batch = ("batch",)
    return split_over_mesh(local, (batch,) * 3, batch, {"batch": x.shape[0]})(x, targets, sizes)


def _call_here(
    step: Callable[..., None],
    name: str,
    arrays: Sequence[jax.Array],
    count: int,
    interpret: bool,
) -> jax.Array:
    """The same for rows [r, n, d] on one device."""
    x, targets, sizes = arrays
    rows, tokens, width = x.shape
    groups = max(n for n in range(1, _most_groups(x) + 1) if rows % n == 0)

    def some(tokens: int, width: int) -> pl.BlockSpec:
        return pl.BlockSpec((groups, tokens, width), lambda row: (row, 0, 0))

    of_tokens = some(1, targets.shape[1])
    return pl.pallas_call(
        step,
        grid=(rows // groups,),
        in_specs=[some(tokens, width), of_tokens, of_tokens],
        out_specs=some(count, width),
        out_shape=jax.ShapeDtypeStruct((rows, count, width), x.dtype),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel",),
            vmem_limit_bytes=reserved(_bytes(groups, x, count)),
        ),
        cost_estimate=pl.CostEstimate(
            flops=2 * rows * count * tokens * width,
            transcendentals=0,
            bytes_accessed=rows * (tokens + count) * width * x.dtype.itemsize,
        ),
        interpret=interpret,
        name=name,
    )(x, targets[:, None], sizes[:, None])


def _forward_step(tokens: Any, targets: Any, sizes: Any, out: Any) -> None:
    def one(row: jax.Array, carry: None) -> None:
        weights = _weights(targets[row], sizes[row], out.shape[1])
        # Sizes are counts, so a token that nothing is merged into stays as it is.
        total = _product(weights.astype(tokens.dtype), tokens[row], 1, 0)
        out[row] = (total / weights.sum(-1, keepdims=True)).astype(out.dtype)

    jax.lax.fori_loop(0, tokens.shape[0], one, None)


def _backward_step(gradients: Any, targets: Any, sizes: Any, out: Any) -> None:
    def one(row: jax.Array, carry: None) -> None:
        weights = _weights(targets[row], sizes[row], gradients.shape[1])
        shares = weights / weights.sum(-1, keepdims=True)
        found = _product(shares.astype(gradients.dtype), gradients[row], 0, 0)
        out[row] = found.astype(out.dtype)

    jax.lax.fori_loop(0, gradients.shape[0], one, None)


def _weights(targets: jax.Array, sizes: jax.Array, left: int) -> jax.Array:
    """Sizes of the tokens [n], each in the row of its target, [left, n]."""
    rows = jax.lax.broadcasted_iota(jnp.int32, (left, targets.shape[-1]), 0)
    return jnp.where(targets == rows, sizes, 0.0)


def _product(x: jax.Array, y: jax.Array, over: int, of: int) -> jax.Array:
    """Product over these axes, exact for float32 inputs."""
    return product(x, y, over, of, jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None)
