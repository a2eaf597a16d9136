"""Leaves of trees by their paths."""

from typing import Any

import jax


def by_path(tree: Any) -> dict[str, Any]:
    """{'/'-joined path: leaf} of any pytree, in the order of its leaves."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
