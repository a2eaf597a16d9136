"""Activations: their gradients, and what is kept for these."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from slices import needs_libtpu

from vlt.costs import hlo
from vlt.models.activations import ACTIVATIONS
from vlt.models.layers import LayerNorm, Mlp
from vlt.runtime.mesh import make_mesh
from vlt.training.ahead import topology_devices

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


@pytest.mark.slow
@needs_libtpu
def test_layers_with_an_exact_gelu_move_less(monkeypatch):
    """Three frozen MLPs with their LayerNorms and the gradient of their input, 256 frames of 197
    tokens of 768 channels in bfloat16, on one v6e chip."""
    (device, *_) = topology_devices("v6e:1x1")
    mesh = make_mesh({"data": 1}, [device])
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    class Layers(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(3):
                y = LayerNorm(dtype=jnp.bfloat16)(x)
                x = x + Mlp(3072, "gelu", dtype=jnp.bfloat16)(y)
            return x

    x = jax.ShapeDtypeStruct((256, 197, 768), jnp.bfloat16, sharding=whole)
    params = jax.eval_shape(Layers().init, jax.random.key(0), x)
    params = jax.tree.map(lambda leaf: leaf.update(sharding=whole), params)

    def moved(function):
        monkeypatch.setitem(ACTIVATIONS, "gelu", function)
        gradient = jax.grad(lambda x, params: Layers().apply(params, x).astype(jnp.float32).sum())
        with jax.set_mesh(mesh):
            program = jax.jit(gradient).lower(x, params).compile()
        return hlo.memory_traffic(hlo.parse(program.as_text()))

    kept, plain = moved(ACTIVATIONS["gelu"]), moved(PLAIN["gelu"])
    print(f"{plain / 1e9:.2f} GB by itself, {kept / 1e9:.2f} GB with the input alone")
    assert kept < 0.65 * plain
