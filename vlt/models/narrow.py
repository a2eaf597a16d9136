"""A language model's weights in fewer bits, which are most of the memory of a chat model.

'bfloat16': its matrices. 'int8': those of its dense layers, symmetric around 0, with a scale for
each output; the table of words in bfloat16. '' leaves them as they are stored.
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
    """Leaves by path, those of the language model in fewer bits; what has those stays."""
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
    """The same of shapes."""
    found: dict[str, Any] = {}
    for path, leaf in leaves.items():
        kind = _kind(path, weights)
        found[path] = jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(kind)) if kind else leaf
        if kind == "int8":
            found[_scale(path)] = jax.ShapeDtypeStruct(leaf.shape[1:], jnp.float32)
    return found


def rounded(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A kernel [in, out] as int8, and the scale of each output [out].

    Kernel and int8 times scale differ by half a scale at most, which is 1/254 of an output's
    largest weight.
    """
    largest = np.abs(kernel).max(0).astype(np.float32)
    scale = np.where(largest > 0, largest / LARGEST, 1).astype(np.float32)
    return np.rint(kernel / scale).astype(np.int8), scale


def _kind(path: str, weights: str) -> str:
    """The type of a leaf's numbers, where it is not the stored one."""
    if weights and _KERNEL.fullmatch(path):
        return weights
    return "bfloat16" if weights and _TABLE.fullmatch(path) else ""


def _scale(path: str) -> str:
    return f"{path.rpartition('/')[0]}/{SCALE}"
