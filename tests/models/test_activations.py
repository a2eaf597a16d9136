"""Activations: their gradients, and what is kept for these."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlt.models.activations import ACTIVATIONS

PLAIN = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "silu": jax.nn.silu,
}


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-6), (jnp.bfloat16, 8e-3)])
def test_values_are_those_of_the_function_and_gradients_those_in_float32(name, dtype, tolerance):
    x = jnp.linspace(-9, 9, 999).astype(dtype)
    np.testing.assert_array_equal(ACTIVATIONS[name](x), PLAIN[name](x))
    found = jax.vmap(jax.grad(ACTIVATIONS[name]))(x)
    expected = jax.vmap(jax.grad(PLAIN[name]))(x.astype(jnp.float32))
    np.testing.assert_allclose(
        found.astype(jnp.float32), expected, rtol=tolerance / 2, atol=tolerance / 2
    )


@pytest.mark.parametrize("name", PLAIN)
def test_only_the_input_is_kept_for_the_gradient(name):
    x = jnp.linspace(-3, 3, 64, dtype=jnp.bfloat16)

    def kept(function):
        return sum(leaf.nbytes for leaf in jax.tree.leaves(jax.vjp(function, x)[1]))

    assert kept(ACTIVATIONS[name]) == x.nbytes < kept(PLAIN[name])
