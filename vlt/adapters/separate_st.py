"""Separate space-time attention inside the backbone (BT-Adapter's Table 6, "+4 layer separate-ST").

A temporal layer reads the patches before the attention of some CLIP layers; the first of them also
adds a learned time embedding. The embedding and each temporal layer's last projection start at
zero, so the model starts as CLIP.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from vlt.adapters.branch import TemporalLayer
from vlt.models.options import check_layers
from vlt.models.points import BlockScope, Method
from vlt.models.spec import Spec
from vlt.models.tokens import Tokens


@dataclasses.dataclass(frozen=True)
class SeparateST(Method):
    """layers: indices of the blocks, from 0. max_frames: rows of the time embedding."""

    name: ClassVar[str] = "separate_st"
    needs: ClassVar[frozenset[str]] = frozenset({"frame_groups", "patch_places"})
    other_frames_tested: ClassVar[bool] = True

    layers: tuple[int, ...] = (20, 21, 22, 23)
    max_frames: int = 64

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("separate_st.layers is empty; name the blocks, from 0")
        if self.max_frames < 1:
            raise ValueError(f"separate_st.max_frames must be >= 1, got {self.max_frames}")

    def check(self, spec: Spec, frames: int) -> None:
        """Raises ValueError for blocks that the vision tower does not have."""
        check_layers("separate_st.layers", self.layers, spec.visual.layers)

    def before_attention(self, block: BlockScope, tokens: Tokens) -> Tokens:
        """Point 1, in the vision tower: frames are the groups of tokens.x [b, t, n, d]."""
        if block.layer not in self.layers:
            return tokens
        cls, patches = jnp.split(tokens.x, [tokens.protected], axis=2)
        frames, width = patches.shape[1], patches.shape[-1]
        if block.layer == min(self.layers):
            if frames > self.max_frames:
                raise ValueError(f"{frames} frames, separate_st.max_frames is {self.max_frames}")
            time = block.param("time_embedding", nn.initializers.zeros, (self.max_frames, width))
            patches = patches + time[:frames, None].astype(patches.dtype)
        layer = TemporalLayer(
            block.heads, block.norm_eps, block.key_bias, 0.0, block.dtype, name="separate_st"
        )
        return tokens.replace(x=jnp.concatenate([cls, layer(patches)], axis=2))


METHOD = SeparateST
