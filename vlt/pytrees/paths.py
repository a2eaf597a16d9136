"""Leaves of trees by their paths."""

from collections.abc import Callable
from typing import Any

import jax
from jax.interpreters import partial_eval


def path_name(path: tuple) -> str:
    """JAX's path of a leaf as a string: 'visual/blocks_0/mlp/kernel'."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def by_path(tree: Any) -> dict[str, Any]:
    """{'/'-joined path: leaf} of any pytree, in the order of its leaves."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {path_name(path): leaf for path, leaf in leaves}


def leaves_read(function: Callable[..., Any], tree: Any, *inputs: Any) -> set[str]:
    """Paths of the leaves of a tree that the result of function(tree, *inputs) depends on."""
    jaxpr = jax.make_jaxpr(function)(tree, *inputs).jaxpr
    _, read = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    paths = list(by_path(tree))
    return {path for path, is_read in zip(paths, read[: len(paths)], strict=True) if is_read}
