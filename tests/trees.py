"""Shared by tests of what is on disk: a small tree, and comparisons."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

TREE = {
    "visual": {
        "projection": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)},
        "class_token": np.asarray([1.5, -2.0], jnp.bfloat16),
    },
    "logit_scale": np.float32(4.6),
}


def shapes(tree, sharding=None):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def assert_equal(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def largest_file(folder: pathlib.Path) -> pathlib.Path:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)
