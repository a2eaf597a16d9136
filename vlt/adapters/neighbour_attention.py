"""Attention to adjacent frames (Open-VCLIP, Weng et al., arXiv:2302.00624, temporal view).

In every block of the vision tower the tokens of a frame also read the keys and values of the two
adjacent frames. Nothing is learned, and plain weights fit.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vlt.models.options import require_some
from vlt.models.points import BlockScope, Method
from vlt.models.tokens import Pattern, Tokens

MISSING = ("zeros", "masked")


@dataclasses.dataclass(frozen=True)
class NeighbourAttention(Method):
    """Keys and values of frames t + 1, t - 1 and t for the queries of frame t. No leaves.

    missing: what the first and the last frame read for the neighbour that they lack: `zeros`, keys
        and values of 0 that take their share of the softmax, as published; `masked`, nothing.
    renormalize: whether scores are cosines with the mean of the frames. The published score is the
        mean of the frames' cosines.

    Raises:
        ValueError: unknown missing.
    """

    name: ClassVar[str] = "neighbour_attention"
    needs: ClassVar[frozenset[str]] = frozenset({"frame_groups", "patch_places", "key_choice"})
    breaks: ClassVar[frozenset[str]] = frozenset({"key_choice"})

    missing: str = "zeros"
    renormalize: bool = False

    def __post_init__(self) -> None:
        require_some("neighbour_attention", "missing", (self.missing,), MISSING)

    @property
    def frame_scores(self) -> bool:
        return not self.renormalize

    def attention_pattern(self, block: BlockScope, tokens: Tokens, pattern: Pattern) -> Pattern:
        """Point 4: adds the keys and values of the neighbouring groups, which are frames."""
        if self.missing == "masked":
            t, n = tokens.x.shape[1:3]
            pattern = pattern.add_bias(jnp.asarray(_bias(t, n)))
        return pattern.replace(gather=with_neighbours)


METHOD = NeighbourAttention


def with_neighbours(x: jax.Array) -> jax.Array:
    """[b, t, h, n, d] -> [b, t, h, 3 n, d]: the next frame's, the previous one's, and its own."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)))
    return jnp.concatenate([padded[:, 2:], padded[:, :-2], x], axis=3)


def _bias(frames: int, tokens: int) -> np.ndarray:
    """[t, 1, 1, 3 n], zero, and the lowest float32 where there is no frame."""
    bias = np.zeros((frames, 3, tokens), np.float32)
    lowest = np.finfo(np.float32).min
    bias[-1, 0] = bias[0, 1] = lowest
    return bias.reshape(frames, 1, 1, -1)
