"""Rotary positions: queries and keys turn by where their tokens stand (Su et al., 2104.09864)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

EVA_GRID = 16  # side of the grid of patches that EVA02's frequencies are for


@dataclasses.dataclass(frozen=True)
class Rotary:
    """Turns pairs of a head's channels, so that logits depend only on differences of places.

    With places in k dimensions, each turns its share of the channels, in order: d/2k pairs, pair j
    by place * base**(-2jk/d). base: base of the frequencies. neighbours: a pair is two neighbouring
    channels (PE); otherwise channel j and the one half a share after it (LLaMA).
    """

    base: float = 10000.0
    neighbours: bool = False

    def __call__(self, x: jax.Array, places: jax.Array) -> jax.Array:
        """x [b, g, h, n, d] of tokens at places [b, g, n, k] -> the same, turned in float32.

        Raises:
            ValueError: d channels do not divide into pairs for k dimensions.
        """
        d, k = x.shape[-1], places.shape[-1]
        if d % (2 * k):
            raise ValueError(f"heads of {d} channels do not divide into pairs for {k} dimensions")
        frequencies = self.base ** (-jnp.arange(0, d // k, 2) / (d // k))
        angles = (places[:, :, None, :, :, None].astype(jnp.float32) * frequencies)[..., None]
        axis = -1 if self.neighbours else -2
        pairs = (-1, 2) if self.neighbours else (2, -1)
        share = x.astype(jnp.float32).reshape(*x.shape[:-1], k, *pairs)
        first, second = jnp.split(share, 2, axis=axis)
        angles = angles if self.neighbours else angles.swapaxes(-1, -2)
        cos, sin = jnp.cos(angles), jnp.sin(angles)
        turned = [first * cos - second * sin, second * cos + first * sin]
        return jnp.concatenate(turned, axis=axis).reshape(x.shape).astype(x.dtype)


def frame_places(rope: str, rows: int, columns: int, cls: int) -> np.ndarray:
    """Places [cls + rows * columns, 2] of a frame's tokens, for `VisionSpec.rope` to turn them by.

    `pe`: (column, row), from 1 where there is a class token, else from 0 (perception_models'
    Rope2D). `eva`: (row, column), each scaled to `EVA_GRID` (EVA-CLIP's VisionRotaryEmbeddingFast).
    Class tokens are at 0, which turns nothing.
    """
    row, column = np.divmod(np.arange(rows * columns), columns)
    if rope == "pe":
        places = np.stack([column, row], axis=-1) + bool(cls)
    else:
        places = np.stack([row / rows, column / columns], axis=-1) * EVA_GRID
    return np.pad(places.astype(np.float32), ((cls, 0), (0, 0)))
