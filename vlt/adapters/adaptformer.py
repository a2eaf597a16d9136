"""AdaptFormer: a bottleneck beside the MLP (Chen et al., arXiv:2205.13535, Section 3.2)."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax

from vlt.adapters.bottleneck import Bottleneck
from vlt.models.layers import KAIMING_UNIFORM
from vlt.models.options import TOWERS, require_some
from vlt.models.points import BlockScope, Method
from vlt.models.tokens import Tokens


@dataclasses.dataclass(frozen=True)
class AdaptFormer(Method):
    """x + MLP(LN(x)) + scale * up(relu(down(x))), which starts as the plain block.

    bottleneck: width r; 64 in the vision tower makes 1,189,632 parameters on a ViT-B. scale: s,
    fixed. dropout: rate on the bottleneck, in training. towers: the towers it is in; MSTA's row of
    7.9M on ViCLIP fits only 256 in both.

    Raises:
        ValueError: bottleneck below 1; dropout out of range; no or unknown towers.
    """

    name: ClassVar[str] = "adaptformer"

    bottleneck: int = 64
    scale: float = 0.1
    dropout: float = 0.1
    towers: tuple[str, ...] = ("visual",)

    def __post_init__(self) -> None:
        if self.bottleneck < 1:
            raise ValueError(f"adaptformer.bottleneck must be >= 1, got {self.bottleneck}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"adaptformer.dropout must be >= 0 and < 1, got {self.dropout}")
        require_some("adaptformer", "towers", self.towers, TOWERS)

    def mlp_path(
        self, block: BlockScope, entry: Tokens, tokens: Tokens, normed: jax.Array, y: jax.Array
    ) -> jax.Array:
        """Point 7: reads the residual stream before the second LayerNorm."""
        bottleneck = Bottleneck(
            self.bottleneck,
            jax.nn.relu,
            KAIMING_UNIFORM,
            nn.initializers.zeros,
            block.dtype,
            dropout=self.dropout if block.train else 0.0,
            name="adaptformer",
        )
        return y + self.scale * bottleneck(tokens.x)


METHOD = AdaptFormer
