"""Activations by the names that model sizes use."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vlt.models.gradients import stored_on_cpu

Activation = Callable[[jax.Array], jax.Array]


def keeping_input(function: Activation) -> Activation:
    """An elementwise function whose gradient is computed from its input, in float32.

    By itself, XLA keeps what it computes on the way for the backward pass: for an exact GELU two
    more arrays as large as the hidden units, which a step writes and reads.
    """

    @jax.custom_vjp
    def activation(x: jax.Array) -> jax.Array:
        return function(x)

    def forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return function(x), x

    def backward(x: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
        wide = jnp.promote_types(x.dtype, jnp.float32)
        # Without a barrier, what the forward pass has computed is found again, and so kept.
        _, pull = jax.vjp(function, jax.lax.optimization_barrier(x).astype(wide))
        (found,) = pull(gradient.astype(wide))
        return (stored_on_cpu(found.astype(x.dtype)),)

    activation.defvjp(forward, backward)
    return activation


ACTIVATIONS: dict[str, Activation] = {
    "quick_gelu": keeping_input(lambda x: x * jax.nn.sigmoid(1.702 * x)),
    "gelu": keeping_input(lambda x: jax.nn.gelu(x, approximate=False)),
    "gelu_tanh": keeping_input(lambda x: jax.nn.gelu(x, approximate=True)),
    "relu": jax.nn.relu,
    "silu": keeping_input(jax.nn.silu),
}
