"""Transformer blocks over time on top of the vision tower (ViViT's factorised encoder).

Two rows of Token Mixing's benchmark have them: Temporal fine-tuning trains these blocks, Full
(ViViT, arXiv:2103.15691) trains everything. A captioner attends along time at every position of the
frames, as released for BLIP; a model with a joint space does so only at the CLS tokens.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax

from vlt.adapters.over_time import OverTime
from vlt.models.block import Block
from vlt.models.points import TowerScope, copy_leaves
from vlt.models.remat import rematerialised
from vlt.models.spec import Spec, VisionSpec
from vlt.models.tokens import Tokens

NORM_EPS = 1e-5  # as in the released blocks; the ViT has 1e-6


@dataclasses.dataclass(frozen=True)
class TemporalTransformer(OverTime):
    """Pre-LN blocks after the tower's final LayerNorm. Leaves: visual/temporal_transformer/.

    They start as copies of the tower's first `layers` blocks but have, as released, no bias on
    queries, keys and values; 4 blocks have 28,311,552 weights on a ViT-B. Their number of heads is
    the tower's (12 in the released code, whatever the width, which does not divide the 1024 of a
    ViT-L).

    layers: number of blocks.

    Raises:
        ValueError: layers below 1, and as `OverTime`.
    """

    name: ClassVar[str] = "temporal_transformer"
    needs: ClassVar[frozenset[str]] = frozenset({"frame_groups", "patch_places"})

    layers: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layers < 1:
            raise ValueError(f"temporal_transformer.layers must be >= 1, got {self.layers}")

    def check(self, spec: Spec, frames: int) -> None:
        """Raises ValueError where the tower has fewer blocks to copy, and as `OverTime`."""
        super().check(spec, frames)
        if self.layers > spec.visual.layers:
            raise ValueError(
                f"temporal_transformer.layers={self.layers}: the vision tower has "
                f"{spec.visual.layers} blocks to copy"
            )

    def features(self, tower: TowerScope, x: jax.Array) -> jax.Array:
        """Point 9: [b, t, n, d], n = 1 in a model with a joint space."""
        blocks = TimeBlocks(self, tower.spec, tower.remat, tower.dtype, name="temporal_transformer")
        return blocks(x)

    def init_from_backbone(self, params: dict, spec: Spec) -> dict:
        """Block j starts as a copy of block j of the tower."""
        visual = params["visual"]
        leaves = dict(visual["temporal_transformer"])
        for layer in range(self.layers):
            name = f"blocks_{layer}"
            leaves[name] = copy_leaves(leaves[name], visual[name])
        return params | {"visual": visual | {"temporal_transformer": leaves}}


METHOD = TemporalTransformer


class TimeBlocks(nn.Module):
    """`options.layers` blocks over the frames, at each position."""

    options: TemporalTransformer
    spec: VisionSpec
    remat: str
    dtype: jax.typing.DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, t, n, d] -> [b, t, n, d]."""
        tokens = Tokens(self.options.along_time(self, x), cls=0, protected=0)
        block = rematerialised(Block, self.remat)
        for layer in range(self.options.layers):
            tokens = block(
                self.spec.heads,
                self.spec.mlp_width,
                self.spec.activation,
                NORM_EPS,
                dtype=self.dtype,
                qkv_bias=False,
                logit_cap=self.spec.logit_cap,
                gated=self.spec.gated_mlp,
                sub_norm=self.spec.sub_norm,
                name=f"blocks_{layer}",
            )(tokens)
        return tokens.x.swapaxes(1, 2)
