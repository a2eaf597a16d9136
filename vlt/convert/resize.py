"""Position embeddings for another image size, as torch resizes them."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from vlt.convert.errors import ConversionError
from vlt.model_folder import ModelConfig

_A = -0.75  # torch's cubic; Pillow's and jax.image's is -0.5
_LEAF = "visual/position_embedding"


def resize_image(
    config: ModelConfig, leaves: dict[str, np.ndarray], size: int
) -> tuple[ModelConfig, dict[str, np.ndarray]]:
    """The model for square images of `size` pixels.

    Raises ConversionError: not a whole number of patches.
    """
    visual = config.spec.visual
    if size < visual.patch_size or size % visual.patch_size:
        raise ConversionError(
            f"--set visual.image_size={size}: not a multiple of the patches' {visual.patch_size}"
        )
    table = resize_positions(leaves[_LEAF], size // visual.patch_size)
    spec = dataclasses.replace(config.spec, visual=dataclasses.replace(visual, image_size=size))
    pixels: Mapping[str, Any] = config.preprocessing | {"image_size": size}
    config = dataclasses.replace(config, spec=spec, preprocessing=dict(pixels))
    return config, leaves | {_LEAF: table}


def resize_positions(table: np.ndarray, side: int) -> np.ndarray:
    """[1 + s * s, d] -> [1 + side * side, d]; the CLS token's row stays.

    torch.nn.functional.interpolate(mode="bicubic", align_corners=False), without antialiasing.
    """
    old = math.isqrt(len(table) - 1)
    if old == side:
        return table
    weights = _bicubic(old, side)
    grid = table[1:].reshape(old, old, -1).astype(np.float64)
    grid = np.einsum("iy,jx,yxd->ijd", weights, weights, grid, optimize=True)
    return np.concatenate([table[:1], grid.reshape(side * side, -1).astype(table.dtype)])


def _bicubic(old: int, new: int) -> np.ndarray:
    """[new, old]: what each old sample adds to each new one; those outside repeat the edge's."""
    at = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(at).astype(int)
    weights = np.zeros((new, old))
    for tap in range(-1, 3):
        column = np.clip(first + tap, 0, old - 1)
        np.add.at(weights, (np.arange(new), column), _cubic(np.abs(at - first - tap)))
    return weights


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' kernel at distances x in 0 to 2."""
    near = ((_A + 2) * x - (_A + 3)) * x * x + 1
    far = ((_A * x - 5 * _A) * x + 8 * _A) * x - 4 * _A
    return np.where(x <= 1, near, far)
