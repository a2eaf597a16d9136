"""Products of few rows equal XLA's, also in 16 bits and for any shape of rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlt.models import products
from vlt.models.products import FEW_ROWS, dot_general, in_float32


@pytest.mark.parametrize("shape", [(1, 1, 1, 24), (3, 2, 24), (FEW_ROWS + 1, 24)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_few_rows(shape, dtype):
    x = jax.random.normal(jax.random.key(0), shape, dtype)
    kernel = jax.random.normal(jax.random.key(1), (24, 40), dtype)
    dimensions = ((len(shape) - 1,), (0,)), ((), ())
    found = jax.jit(lambda x, w: dot_general(x, w, dimensions))(x, kernel)
    expected = np.asarray(x, np.float64) @ np.asarray(kernel, np.float64)
    assert found.dtype == dtype and found.shape == (*shape[:-1], 40)
    np.testing.assert_allclose(
        found.astype(jnp.float32),
        expected,
        rtol=2**-7 if dtype == jnp.bfloat16 else 1e-5,
        atol=1e-4,
    )


@pytest.mark.parametrize(("most", "parts"), [(960, 1), (959, 2), (100, 12), (1, 24)])
def test_kernels_of_8_bits_in_equal_parts_of_at_most_so_many_weights(most, parts, monkeypatch):
    monkeypatch.setattr(products, "PART", most)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, 24)), jnp.float32)
    kernel = jnp.asarray(rng.integers(-128, 128, (24, 40)), jnp.int8)
    # A function of this case alone: JAX keeps what it traced of another.
    program = jax.jit(lambda x, kernel: products._by_parts(x, kernel))
    expected = np.asarray(x, np.float64) @ np.asarray(kernel, np.float64)
    np.testing.assert_allclose(program(x, kernel), expected, rtol=1e-5, atol=1e-3)
    assert f"f32[{24 // parts},40]" in str(jax.make_jaxpr(program)(x, kernel))


@pytest.mark.parametrize("rows", [1, 2])
def test_gradients_pass(rows):
    x, kernel = jnp.ones((rows, 3), jnp.bfloat16), jnp.ones((3, 4), jnp.bfloat16)
    loss = jax.jit(jax.grad(lambda w: dot_general(x, w, (((1,), (0,)), ((), ()))).sum()))
    np.testing.assert_array_equal(loss(kernel).astype(jnp.float32), np.full((3, 4), float(rows)))


def test_every_number_of_16_bits_is_the_same_in_32():
    kernel = jax.lax.bitcast_convert_type(jnp.arange(2**16, dtype=jnp.uint16), jnp.bfloat16)
    found = np.asarray(in_float32(kernel))
    np.testing.assert_array_equal(found, np.asarray(kernel).astype(np.float32))
