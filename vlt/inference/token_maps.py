"""Which patches of a clip a model's methods merge into one token."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vlt.models.video_model import VideoModel
from vlt.reporting.paint import PRUNED

SIDE = 128  # pixels up to which a frame's side is enlarged
CAPTION = "Patches with one fill and border, in all frames, are one token; others are alone."
CAPTION_PRUNED = " Dark ones are in none."


class TokenMap(NamedTuple):
    """tokens: int [t, rows, cols], the token that each patch is in, or PRUNED. left: number of
    tokens after the block, class tokens included. before: number that entered the first block."""

    tokens: np.ndarray
    left: int
    before: int


def token_maps(
    model: VideoModel, params: Any, clips: Sequence[np.ndarray], layers: Sequence[int]
) -> list[list[TokenMap]]:
    """Token maps [clip][layer] of uint8 clips [t, H, W, 3] of one shape.

    All tokens of every block are computed. A patch is in the token that holds more than half of it.
    """
    model = model.clone(cls_only=False)
    side = model.spec.visual.image_size // model.spec.visual.patch_size

    @jax.jit
    def encode(params: Any, clip: jax.Array) -> list[tuple[jax.Array, int, int]]:
        variables = {"params": params}
        _, out = model.apply(variables, clip[None], capture=True, method="encode_video")
        before = math.prod(out["stem"].x.shape[1:3])
        blocks = [out[f"block_{layer}"] for layer in layers]
        owners = [_owner(block.members).reshape(-1, side, side) for block in blocks]
        left = [math.prod(block.x.shape[1:3]) for block in blocks]
        return [(owner, count, before) for owner, count in zip(owners, left, strict=True)]

    params = jax.device_put(params)
    found = [jax.device_get(encode(params, clip)) for clip in clips]
    return [[TokenMap(owner, int(n), int(before)) for owner, n, before in each] for each in found]


def _owner(members: jax.Array) -> jax.Array:
    """Shares [1, g, n, patches] -> tokens [patches], numbered across all groups."""
    members = members.reshape(-1, members.shape[-1])
    return jnp.where(members.max(0) > 0.5, members.argmax(0), PRUNED)


def enlarged(clip: np.ndarray) -> np.ndarray:
    """Enlarges small frames by a whole factor, repeating pixels."""
    factor = max(1, SIDE // clip.shape[1])
    return clip.repeat(factor, 1).repeat(factor, 2)
