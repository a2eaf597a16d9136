"""The paths of a tree's leaves."""

import jax


def path_name(path: tuple) -> str:
    """JAX's path of a leaf as a text: 'visual/blocks_0/mlp/kernel'."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
