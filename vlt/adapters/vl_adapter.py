"""VL-Adapter: bottlenecks in the language model (Sung et al., arXiv:2112.06825).

One follows each attention layer and MLP of BERT, on its output before the residual sum. The
released code is for T5 and BART, and trains their layer norms, too.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax

from vlt.adapters.bottleneck import Bottleneck
from vlt.models.options import require_some
from vlt.models.points import DenseScope, Method
from vlt.models.spec import Spec

POSITIONS = ("attention", "cross_attention", "mlp")
LAST = {"attention": "out", "cross_attention": "out", "mlp": "fc2"}  # the last dense layer of each
INIT = nn.initializers.normal(0.01)


@dataclasses.dataclass(frozen=True)
class VLAdapter(Method):
    """y + up(gelu(down(y))), y the output of a layer of BERT. Biases start at zero.

    Leaves: text/blocks_i/{position}/{out or fc2}/vl_adapter.

    positions: some of `POSITIONS`. reduction: the text model's width divided by the bottleneck's.

    Raises:
        ValueError: no or unknown positions.
    """

    name: ClassVar[str] = "vl_adapter"
    text_needs: ClassVar[frozenset[str]] = frozenset({"bert"})

    positions: tuple[str, ...] = POSITIONS
    reduction: int = 8

    def __post_init__(self) -> None:
        require_some("vl_adapter", "positions", self.positions, POSITIONS)

    def check(self, spec: Spec, frames: int) -> None:
        """Raises ValueError unless the reduction is between 1 and the text model's width."""
        if not 1 <= self.reduction <= spec.text.width:
            raise ValueError(
                f"vl_adapter.reduction must be between 1 and the text model's width, "
                f"{spec.text.width}, got {self.reduction}"
            )

    @property
    def towers(self) -> tuple[str, ...]:
        return ("text",)

    def projection(self, dense: DenseScope, x: jax.Array, y: jax.Array) -> jax.Array:
        """Point 3: after the last dense layer of attention or MLP."""
        if dense.part not in self.positions or dense.name != LAST[dense.part]:
            return y
        width = y.shape[-1] // self.reduction
        return y + Bottleneck(width, jax.nn.gelu, INIT, INIT, y.dtype, name="vl_adapter")(y)


METHOD = VLAdapter
