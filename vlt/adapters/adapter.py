"""Bottleneck adapters: a small MLP added to what it reads (Houlsby et al., arXiv:1902.00751).

| form | options |
|---|---|
| TempMe's table, 261,312 parameters on CLIP-B/32 | the defaults |
| Houlsby et al. | positions=("attention", "mlp"), bottleneck=64 |
| Token Mixing's table, 1,880,064 weights on a ViT-B | positions=("before_mlp",), bottleneck=96, |
| | activation="sigmoid", middle=True, init_std=0.02, towers=("visual",) |
| Token Mixing as released, twice that | positions=("before_attention", "before_mlp"), the same |

TempMe's paper gives a count that fits only one adapter of width 8 per layer, with biases, in both
towers. It gives neither the position nor the activation: after the MLP, and Houlsby's activation,
are inferred. So is the position before the MLP for Token Mixing's table, which counts one adapter
where the released code has two.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax

from vlt.adapters.bottleneck import Bottleneck
from vlt.models.activations import ACTIVATIONS
from vlt.models.options import TOWERS, require_some
from vlt.models.points import BlockScope, Method
from vlt.models.tokens import AttentionOutput, Tokens

POSITIONS = ("before_attention", "attention", "before_mlp", "mlp")
NONLINEAR = ACTIVATIONS | {"sigmoid": jax.nn.sigmoid}


@dataclasses.dataclass(frozen=True)
class Adapter(Method):
    """x + up(activation(down(x))), near x at the start. Leaves: blocks_i/adapter_{position}.

    bottleneck: width r. positions: `attention` and `mlp` read those layers' outputs, before the
        residual sum; `before_attention` and `before_mlp` read the residual stream, unnormalised.
    activation: one of `NONLINEAR`. middle: whether a dense layer [r, r] follows the activation.
    init_std: standard deviation of the normal weights, cut at two of them unless there is a middle
        layer, as published; biases start at zero. towers: the towers it is in.

    Raises:
        ValueError: bottleneck below 1; no or unknown positions or towers; unknown activation.
    """

    name: ClassVar[str] = "adapter"

    bottleneck: int = 8
    positions: tuple[str, ...] = ("mlp",)
    activation: str = "gelu"
    middle: bool = False
    init_std: float = 1e-3
    towers: tuple[str, ...] = TOWERS

    def __post_init__(self) -> None:
        if self.bottleneck < 1:
            raise ValueError(f"adapter.bottleneck must be >= 1, got {self.bottleneck}")
        require_some("adapter", "positions", self.positions, POSITIONS)
        require_some("adapter", "towers", self.towers, TOWERS)
        require_some("adapter", "activation", (self.activation,), tuple(NONLINEAR))

    def _adapt(self, block: BlockScope, position: str, x: jax.Array) -> jax.Array:
        if position not in self.positions:
            return x
        initializers = nn.initializers
        normal = initializers.normal if self.middle else initializers.truncated_normal
        init = normal(self.init_std)
        bottleneck = Bottleneck(
            self.bottleneck,
            NONLINEAR[self.activation],
            init,
            init,
            block.dtype,
            self.middle,
            name=f"adapter_{position}",
        )
        return x + bottleneck(x)

    def before_attention(self, block: BlockScope, tokens: Tokens) -> Tokens:
        """Point 1: position `before_attention`."""
        return tokens.replace(x=self._adapt(block, "before_attention", tokens.x))

    def parallel_attention(
        self, block: BlockScope, tokens: Tokens, normed: jax.Array, y: jax.Array
    ) -> jax.Array:
        """Point 5: position `attention`."""
        return self._adapt(block, "attention", y)

    def after_attention(
        self, block: BlockScope, tokens: Tokens, attended: AttentionOutput
    ) -> Tokens:
        """Point 6: position `before_mlp`."""
        return tokens.replace(x=self._adapt(block, "before_mlp", tokens.x))

    def mlp_path(
        self, block: BlockScope, entry: Tokens, tokens: Tokens, normed: jax.Array, y: jax.Array
    ) -> jax.Array:
        """Point 7: position `mlp`."""
        return self._adapt(block, "mlp", y)


METHOD = Adapter
