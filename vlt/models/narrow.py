"""A language model's weights in fewer bits; they are most of the memory of a chat model.

'bfloat16' holds its matrices in bfloat16. 'int8' holds those of its dense layers in int8, symmetric
around 0 with a scale for each output, and the table of words in bfloat16. '' leaves all as stored.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

WEIGHTS = ("", "bfloat16", "int8")
SCALE = "kernel_scale"  # beside an int8 kernel, float32
LARGEST = 127
_KERNEL = re.compile(r"text/(blocks_\d+/(attention|mlp)/[a-z0-9]+|head)/kernel")
_TABLE = re.compile(r"text/token_embedding/embedding")


def narrowed(leaves: Mapping[str, Any], weights: str) -> dict[str, Any]:
    """Leaves by path, the language model's in fewer bits; those already narrow stay as they are."""
    found: dict[str, Any] = {}
    for path, leaf in leaves.items():
        kind = _kind(path, weights)
        if kind == "int8" and leaf.dtype != np.int8:
            found[path], found[_scale(path)] = rounded(np.asarray(leaf))
        elif kind == "bfloat16":
            found[path] = np.asarray(leaf).astype(jnp.bfloat16)
        else:
            found[path] = leaf
    return found


def narrowed_shapes(leaves: Mapping[str, Any], weights: str) -> dict[str, Any]:
    """`narrowed` for shapes."""
    found: dict[str, Any] = {}
    for path, leaf in leaves.items():
        kind = _kind(path, weights)
        found[path] = jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(kind)) if kind else leaf
        if kind == "int8":
            found[_scale(path)] = jax.ShapeDtypeStruct(leaf.shape[1:], jnp.float32)
    return found


def rounded(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A kernel [in, out] as int8, and the scale of each output [out].

    The kernel and int8 times scale differ by at most half a scale, 1/254 of an output's largest
    weight.
    """
    largest = np.abs(kernel).max(0).astype(np.float32)
    scale = np.where(largest > 0, largest / LARGEST, 1).astype(np.float32)
    return np.rint(kernel / scale).astype(np.int8), scale


def _kind(path: str, weights: str) -> str:
    """The dtype that a leaf is narrowed to; '' if it stays as it is stored."""
    if weights and _KERNEL.fullmatch(path):
        return weights
    return "bfloat16" if weights and _TABLE.fullmatch(path) else ""


def _scale(path: str) -> str:
    return f"{path.rpartition('/')[0]}/{SCALE}"
