"""An LSTM over frames, with torch's leaves."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlt.models.layers import uniform


class LSTM(nn.Module):
    """Torch's layer: gates input, forget, cell, output, with biases of the input and of the state.

    Flax's cells have only the latter. reverse: whether to run from the last step to the first.
    """

    width: int
    reverse: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, t, d] -> the states [b, t, h], which start at zero."""
        init, gates = uniform(self.width**-0.5), 4 * self.width
        entering = nn.Dense(gates, dtype=x.dtype, kernel_init=init, bias_init=init, name="input")(x)
        kernel = self.param("state_kernel", init, (self.width, gates)).astype(x.dtype)
        bias = self.param("state_bias", init, (gates,)).astype(x.dtype)

        def step(
            last: tuple[jax.Array, jax.Array], entered: jax.Array
        ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
            state, cell = last
            i, f, g, o = jnp.split(entered + state @ kernel + bias, 4, axis=-1)
            cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
            state = jax.nn.sigmoid(o) * jnp.tanh(cell)
            return (state, cell), state

        zero = jnp.zeros((len(x), self.width), x.dtype)
        steps = entering.swapaxes(0, 1)
        return jax.lax.scan(step, (zero, zero), steps, reverse=self.reverse)[1].swapaxes(0, 1)
