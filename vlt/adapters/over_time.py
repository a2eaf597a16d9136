"""Base of the methods in which every position of a frame attends along time."""

import dataclasses

import flax.linen as nn
import jax

from vlt.models.options import require_some
from vlt.models.points import Method, Scope
from vlt.models.spec import Spec


@dataclasses.dataclass(frozen=True)
class OverTime(Method):
    """Base of methods with attention over the frames at each position.

    temporal_position: `none`, as in Token Mixing's benchmark, where outputs do not depend on the
        order of frames; `learned`, a table of `max_frames` rows, zero at the start, is added to
        what that attention reads.
    max_frames: rows of that table.

    Raises:
        ValueError: unknown temporal_position; max_frames below 1.
    """

    temporal_position: str = "none"
    max_frames: int = 64

    def __post_init__(self) -> None:
        known = ("none", "learned")
        require_some(self.name, "temporal_position", (self.temporal_position,), known)
        if self.max_frames < 1:
            raise ValueError(f"{self.name}.max_frames must be >= 1, got {self.max_frames}")

    def check(self, spec: Spec, frames: int) -> None:
        """Raises ValueError for more frames than the table has rows."""
        if self.temporal_position == "learned" and frames > self.max_frames:
            raise ValueError(f"{frames} frames, {self.name}.max_frames is {self.max_frames}")

    def along_time(self, module: Scope, x: jax.Array) -> jax.Array:
        """[b, t, n, d] -> [b, n, t, d] with positions, a leaf of `module`."""
        x = x.swapaxes(1, 2)
        if self.temporal_position == "none":
            return x
        frames, width = x.shape[2:]
        shape = (self.max_frames, width)
        table = module.param("temporal_position", nn.initializers.zeros, shape)
        return x + table[:frames].astype(x.dtype)
