"""Splits arrays that hold all layers, as Flax's `nn.scan` saves them, and stacks them again."""

import re

import numpy as np

from vlt.convert.errors import ConversionError
from vlt.convert.files.arrays import Tensors

_MOST_LAYERS = 1000


def unstack(pattern: str, tensors: Tensors, path: object) -> tuple[Tensors, list[str]]:
    """The tensors, split into one for each layer, and the names of those that held all layers.

    pattern: regex of the words before a layer's number: with `a.encoderblock`,
    `a.encoderblock.b.kernel` becomes `a.encoderblock_0.b.kernel`, `a.encoderblock_1.b.kernel`, ...
    Raises ConversionError: a name that another tensor has, too, or a tensor whose first axis can't
    be layers.
    """
    apart: Tensors = {}
    stacked = []
    for name, tensor in tensors.items():
        match = re.fullmatch(rf"({pattern})(\..*)", name)
        if match and not (tensor.ndim and len(tensor) <= _MOST_LAYERS):
            raise ConversionError(
                f"{path}: {name} is {list(tensor.shape)}, but its first axis must be of layers"
            )
        named = (
            {f"{match[1]}_{i}{match[2]}": layer for i, layer in enumerate(tensor)}
            if match
            else {name: tensor}
        )
        if twice := sorted(apart.keys() & named):
            raise ConversionError(f"{path}: holds {twice[0]} by itself and with other layers")
        stacked += [name] if match else []
        apart |= named
    return apart, stacked


def stack(pattern: str, tensors: Tensors) -> Tensors:
    """Inverse of `unstack`: stacks tensors whose names differ only in the layer's number."""
    layers: dict[str, dict[int, np.ndarray]] = {}
    together: Tensors = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(rf"({pattern})_(\d+)(\..*)", name)
        if match:
            layers.setdefault(f"{match[1]}{match[3]}", {})[int(match[2])] = tensor
        else:
            together[name] = tensor
    stacks = {name: np.stack([x[i] for i in range(len(x))]) for name, x in layers.items()}
    return together | stacks
