"""Identities that change gradients or the way they are computed."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlt.models.block import Block
from vlt.models.gradients import scale_gradient, store_gradient
from vlt.models.layers import LayerNorm, Mlp
from vlt.models.tokens import Tokens

WIDTH = 32


def test_store_gradient_changes_nothing():
    x = jnp.arange(1.0, 7.0).reshape(1, 2, 3)
    value, pullback = jax.vjp(jax.jit(store_gradient), x)
    np.testing.assert_array_equal(value, x)
    np.testing.assert_array_equal(pullback(3 * x)[0], 3 * x)


def test_scale_gradient():
    x = jnp.arange(1.0, 4.0)
    value, pullback = jax.vjp(lambda x: scale_gradient(x, 0.25), x)
    np.testing.assert_array_equal(value, x)
    np.testing.assert_array_equal(pullback(4 * x)[0], x)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of the CPU's fusions")
def test_no_loop_holds_two_products_of_an_mlp():
    mlp = nn.Sequential([LayerNorm(), Mlp(384, "quick_gelu")])
    x = jax.ShapeDtypeStruct((4096, 96), jnp.float32)
    params = jax.eval_shape(mlp.init, jax.random.key(0), x)
    gradient = jax.grad(lambda x, params: jnp.square(x + mlp.apply(params, x)).sum())
    program = jax.jit(gradient).lower(x, params).compile().as_text()
    loops = [part for part in program.split("\n\n") if part.lstrip().startswith("%fused")]
    assert max(part.count(" dot(") for part in loops) == 1


@pytest.mark.slow
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of the CPU's fusions")
def test_backward_pass_costs_as_much_in_every_block():
    """A backward pass moves bytes in proportion to depth; without stored gradients, blocks nine
    to twelve would move 1.2 times the bytes of blocks five to eight."""
    moved = [bytes_of_gradient(depth) for depth in (4, 8, 12)]
    assert moved[2] - moved[1] == pytest.approx(moved[1] - moved[0], rel=0.01)


def bytes_of_gradient(depth: int) -> float:
    """Bytes that the gradient of `depth` blocks with respect to all their leaves accesses."""
    blocks = [Block(4, 4 * WIDTH, "gelu", 1e-6) for _ in range(depth)]
    x = jax.ShapeDtypeStruct((2, 1, 64, WIDTH), jnp.float32)
    params = [jax.eval_shape(b.init, jax.random.key(0), Tokens(jnp.zeros(x.shape))) for b in blocks]

    def total(params, x):
        tokens = Tokens(x)
        for block, own in zip(blocks, params, strict=True):
            tokens = block.apply(own, tokens)
        return jnp.square(tokens.x).sum()

    compiled = jax.jit(jax.grad(total)).lower(params, x).compile()
    return compiled.cost_analysis()["bytes accessed"]
