"""Dual-channel attention: attention over time beside attention within frames (CogVideo).

Hong et al., arXiv:2205.15868, as in Token Mixing's benchmark (Eq. 5): at every position, CLS
included, frames attend to each other with separate weights. Paper, released code and CogVideo
weight the channels differently, and the paper's count is of whole blocks:

| form | options | weights on a ViT-B |
|---|---|---|
| released code | the defaults | 28,311,552 |
| paper, Eq. 5 | gate="convex" | 28,311,552 |
| paper's count | whole_block=True | 84,934,656 |
| CogVideo's gate | gate="channel" | 28,311,552 |
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlt.adapters.over_time import OverTime
from vlt.models.attention import Attention
from vlt.models.block import Block
from vlt.models.options import require_some
from vlt.models.points import BlockScope, copy_leaves
from vlt.models.spec import Spec
from vlt.models.tokens import Pattern, Tokens

GATES = ("tanh", "convex", "channel")


@dataclasses.dataclass(frozen=True)
class DualAttention(OverTime):
    """A temporal channel T beside the spatial S in every block of the vision tower.

    Leaves: blocks_i/temporal_attention, which starts as a copy of the block's attention (with
    `whole_block`, blocks_i/temporal_block, a copy of the block), and blocks_i/temporal_gate,
    which holds a and starts at 0. A separate rule may raise the gate's learning rate.

    gate: `tanh`, S + tanh(a) T, the plain model at the start; `convex`, w S + (1 - w) T with
        w = sigmoid(a), half of each at the start; `channel`, the same with an a for each channel.
    whole_block: whether T is what a block over time adds, attention and MLP, and S what this block
        adds; otherwise they are the outputs of attention.

    Raises:
        ValueError: unknown gate, and as `OverTime`.
    """

    name: ClassVar[str] = "dual_attention"
    needs: ClassVar[frozenset[str]] = frozenset({"frame_groups", "patch_places", "same_tokens"})

    gate: str = "tanh"
    whole_block: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_some("dual_attention", "gate", (self.gate,), GATES)

    def parallel_attention(
        self, block: BlockScope, tokens: Tokens, normed: jax.Array, y: jax.Array
    ) -> jax.Array:
        """Point 5: attention over the frames, at the positions that had queries."""
        if self.whole_block:
            return y
        source = self.along_time(block, normed)
        attention = Attention(
            block.heads,
            block.key_bias,
            dtype=block.dtype,
            sub_norm=block.norm_eps if block.sub_norm else None,
            name="temporal_attention",
        )
        temporal, _ = attention(Pattern(source, source))
        return y + self._change(block, y, temporal.swapaxes(1, 2))

    def mlp_path(
        self, block: BlockScope, entry: Tokens, tokens: Tokens, normed: jax.Array, y: jax.Array
    ) -> jax.Array:
        """Point 7: a whole block over the frames, applied to what entered this one."""
        if not self.whole_block:
            return y
        source = self.along_time(block, entry.x)
        channel = Block(
            block.heads,
            block.mlp_width,
            block.activation,
            block.norm_eps,
            block.key_bias,
            dtype=block.dtype,
            gated=block.gated,
            sub_norm=block.sub_norm,
            name="temporal_block",
        )
        temporal = channel(Tokens(source, cls=0, protected=0)).x - source
        return y + self._change(block, tokens.x - entry.x + y, temporal.swapaxes(1, 2))

    def _change(self, block: BlockScope, spatial: jax.Array, temporal: jax.Array) -> jax.Array:
        """What the gated temporal channel adds to the spatial one, [b, t, n, d]."""
        shape = (spatial.shape[-1],) if self.gate == "channel" else ()
        gate = block.param("temporal_gate", nn.initializers.zeros, shape)
        if self.gate == "tanh":
            return jnp.tanh(gate).astype(temporal.dtype) * temporal
        return jax.nn.sigmoid(-gate).astype(temporal.dtype) * (temporal - spatial)

    def init_from_backbone(self, params: dict, spec: Spec) -> dict:
        """The temporal channel starts as a copy of the block's attention, or of the block."""
        visual = dict(params["visual"])
        for layer in range(spec.visual.layers):
            block = dict(visual[f"blocks_{layer}"])
            if self.whole_block:
                block["temporal_block"] = copy_leaves(block["temporal_block"], block)
            else:
                source = block["attention"]
                block["temporal_attention"] = copy_leaves(block["temporal_attention"], source)
            visual[f"blocks_{layer}"] = block
        return params | {"visual": visual}


METHOD = DualAttention
