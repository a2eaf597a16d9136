"""LoRA: low-rank updates of frozen dense layers (Hu et al., arXiv:2106.09685).

W' = W + scale * A B. TempMe's form shares one A among the projections of an attention layer
(TempMe's released code); the usual form has an A for every layer it adapts.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlt.models.layers import KAIMING_UNIFORM
from vlt.models.options import TOWERS, require_some
from vlt.models.points import DenseScope, Method
from vlt.models.spec import ChatSpec, Spec

TARGETS = ("query", "key", "value", "out", "fc1", "fc2", "gate")
SHARING = ("query", "key", "value")  # the layers that read the attention's input


@dataclasses.dataclass(frozen=True)
class LoRA(Method):
    """Starts without effect: A uniform in +-1/sqrt(in), B zeros. No dropout, no bias.

    rank: r. targets: names of dense layers, from `TARGETS`; only a language model has `gate`.
    share_a: whether query, key and value of an attention layer have one A [d, r] (TempMe). Leaves:
        attention/lora_a and attention/{target}/lora_b [r, out]; otherwise lora_a beside every
        lora_b, as always for the query of a cross-attention, whose input is not that of key and
        value.
    alpha: the scale is alpha / rank; None for 1.
    towers: the towers it is in. pooler: whether it is also in the layers of attention pooling.

    Raises:
        ValueError: rank below 1; no or unknown targets or towers; share_a with a target whose input
            is not the attention's.
    """

    name: ClassVar[str] = "lora"
    text_needs: ClassVar[frozenset[str]] = frozenset()

    rank: int = 8
    targets: tuple[str, ...] = SHARING
    share_a: bool = True
    alpha: float | None = None
    towers: tuple[str, ...] = TOWERS
    pooler: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"lora.rank must be >= 1, got {self.rank}")
        require_some("lora", "targets", self.targets, TARGETS)
        require_some("lora", "towers", self.towers, TOWERS)
        if self.share_a and (others := sorted(set(self.targets) - set(SHARING))):
            raise ValueError(
                f"lora.share_a=True with {', '.join(others)} in lora.targets: only "
                f"{', '.join(SHARING)} read the same input; set lora.share_a=False"
            )

    def check(self, spec: Spec, frames: int) -> None:
        """Raises ValueError for a target that no chosen tower has."""
        if "gate" in self.targets and not ("text" in self.towers and isinstance(spec, ChatSpec)):
            raise ValueError(
                "lora.targets has 'gate', a layer of language models; there is none in "
                + (f"a {spec.kind}" if "text" in self.towers else f"lora.towers={self.towers}")
            )

    @property
    def in_pooler(self) -> bool:
        return self.pooler

    @property
    def scale(self) -> float:
        """Factor of A B."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def projection(self, dense: DenseScope, x: jax.Array, y: jax.Array) -> jax.Array:
        """Point 3: y + scale * (x A) B."""
        if dense.name not in self.targets or not dense.part:
            return y
        shared = dense.part_param if self.share_a and not _crosses(dense) else None
        a = (shared or dense.param)("lora_a", KAIMING_UNIFORM, (x.shape[-1], self.rank))
        b = dense.param("lora_b", nn.initializers.zeros, (self.rank, y.shape[-1]))
        return y + self.scale * ((x @ a.astype(y.dtype)) @ b.astype(y.dtype))

    def projections(self, leaves: Mapping[str, Any], x: jax.Array, y: jax.Array) -> jax.Array:
        """Point 3 for query, key and value at once."""
        width, a, b = y.shape[-1] // 3, [], []
        for place, name in enumerate(SHARING):
            layer = leaves[name]
            if "lora_b" in layer:
                a.append(layer.get("lora_a", leaves.get("lora_a")))
                b.append(jnp.pad(layer["lora_b"], ((0, 0), (place * width, (2 - place) * width))))
        if not b:
            return y
        shared = "lora_a" in leaves
        down = a[0] if shared else jnp.concatenate(a, 1)
        up = jnp.stack(b).sum(0) if shared else jnp.concatenate(b)
        return y + self.scale * ((x @ down.astype(y.dtype)) @ up.astype(y.dtype))

    @property
    def mergeable(self) -> bool:
        return True

    def fold_for_inference(self, params: dict) -> tuple[Method | None, dict]:
        """None, and the tree with kernels W + scale * A B in the place of LoRA's leaves."""
        return None, self._fold(params, None)

    def _fold(self, tree: dict, shared_a: Any) -> dict:
        a = tree.get("lora_a", shared_a)
        folded = {
            name: self._fold(child, a) if isinstance(child, dict) else child
            for name, child in tree.items()
            if name not in ("lora_a", "lora_b")
        }
        if "lora_b" in tree:
            kernel = tree["kernel"]
            update = jnp.matmul(a, tree["lora_b"], precision="highest")
            folded["kernel"] = (kernel + self.scale * update).astype(kernel.dtype)
        return folded


METHOD = LoRA


def _crosses(dense: DenseScope) -> bool:
    """Whether the layer is the query of a cross-attention."""
    return dense.part == "cross_attention" and dense.name == "query"
