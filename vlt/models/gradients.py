"""Identities: those that act on gradients alone, and one that CPUs compute and store."""

import functools

import jax
from jax.experimental.xla_metadata import set_xla_metadata


@jax.custom_vjp
def store_gradient(x: jax.Array) -> jax.Array:
    """x, whose gradient is computed once and stored.

    A residual stream's gradient is a sum over all later blocks. XLA's CPU backend would compute it
    again wherever a block reads it, so that a backward pass costs the square of the depth.
    """
    return x


def _store_forward(x: jax.Array) -> tuple[jax.Array, None]:
    return x, None


def _store_backward(_: None, gradient: jax.Array) -> tuple[jax.Array]:
    stored = jax.lax.platform_dependent(gradient, cpu=_called, default=jax.lax.optimization_barrier)
    return (stored,)


def _called(x: jax.Array) -> jax.Array:
    """x through a call that is not inlined: CPUs drop barriers before they fuse operations."""
    with set_xla_metadata(inlineable="false"):
        return jax.jit(jax.lax.optimization_barrier)(x)


store_gradient.defvjp(_store_forward, _store_backward)


def stored_on_cpu(x: jax.Array) -> jax.Array:
    """x, which other platforms may compute where it is read.

    Between two dense layers, XLA's CPU backend would make one loop of the first product, what
    follows, the second product and the reductions after it, which is slower than its parts.
    """
    return jax.lax.platform_dependent(x, cpu=_called, default=lambda x: x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def scale_gradient(x: jax.Array, factor: float) -> jax.Array:
    """x, whose gradient is multiplied by `factor`."""
    return x


def _scale_forward(x: jax.Array, factor: float) -> tuple[jax.Array, None]:
    return x, None


def _scale_backward(factor: float, _: None, gradient: jax.Array) -> tuple[jax.Array]:
    return (factor * gradient,)


scale_gradient.defvjp(_scale_forward, _scale_backward)
