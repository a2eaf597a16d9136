"""Leaves of trees by their paths."""

from typing import Any

import jax


def path_name(path: tuple) -> str:
    """JAX's path of a leaf as a text: 'visual/blocks_0/mlp/kernel'."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def by_path(tree: Any) -> dict[str, Any]:
    """{'/'-joined path: leaf} of any pytree, in the order of its leaves."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {path_name(path): leaf for path, leaf in leaves}
