"""Splits a tree into two parts and merges them again."""

from collections.abc import Callable, Mapping
from typing import Any

from flax import traverse_util

Tree = Mapping[str, Any]

_LISTED = 20


def split(tree: Tree, chosen: Callable[[str], bool]) -> tuple[dict, dict]:
    """(leaves whose '/'-joined path is chosen, the others), each as a nested dict."""
    leaves = traverse_util.flatten_dict(dict(tree), sep="/")
    first = {path: leaf for path, leaf in leaves.items() if chosen(path)}
    second = {path: leaf for path, leaf in leaves.items() if path not in first}
    one, other = (traverse_util.unflatten_dict(part, sep="/") for part in (first, second))
    return one, other


def merge(one: Tree, other: Tree) -> dict:
    """Puts the two parts of `split` together again.

    Raises:
      ValueError: a leaf is in both, or is a leaf in one and a folder in the other.
    """
    first, second = (traverse_util.flatten_dict(dict(tree), sep="/") for tree in (one, other))
    if both := sorted(first.keys() & second.keys()):
        raise ValueError(f"in both parts of a tree: {', '.join(both[:_LISTED])}")
    return traverse_util.unflatten_dict(first | second, sep="/")
