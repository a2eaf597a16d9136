"""EViT: patches the CLS token attends to least are fused into one (Liang et al., arXiv:2202.07800).

Every layer prunes by itself; nothing is learned. The published training starts at keep rate 1 and
lowers it by a cosine. That changes shapes from step to step, so it is left out: the keep rate is
that of inference from the first step.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from vlt.merging.matching import permute
from vlt.models.options import check_layers
from vlt.models.points import BlockScope, Method
from vlt.models.spec import Spec
from vlt.models.tokens import AttentionOutput, Tokens


@dataclasses.dataclass(frozen=True)
class EViT(Method):
    """layers: blocks that prune, from 0. keep: share of the patches each of them leaves."""

    name: ClassVar[str] = "evit"
    needs: ClassVar[frozenset[str]] = frozenset({"class_token", "frame_groups", "attended_tokens"})
    breaks: ClassVar[frozenset[str]] = frozenset({"attended_tokens", "patch_places"})

    layers: tuple[int, ...] = (3, 6, 9)
    keep: float = 0.7

    def check(self, spec: Spec, frames: int) -> None:
        """Raises ValueError for layers the tower does not have and for shares outside (0, 1)."""
        check_layers("evit.layers", self.layers, spec.visual.layers)
        if not 0 < self.keep < 1:
            raise ValueError(f"evit.keep must be > 0 and < 1, got {self.keep}")

    def after_attention(
        self, block: BlockScope, tokens: Tokens, attended: AttentionOutput
    ) -> Tokens:
        """Point 6: [protected | the patches kept, by falling attention | the fused token].

        The fused token is the sum of the dropped ones, each times the CLS token's attention to it
        (heads averaged, not normalised again), and a patch like others from then on.
        """
        if block.layer not in self.layers:
            return tokens
        kept = math.ceil(self.keep * tokens.patches)
        if kept == tokens.patches:
            return tokens
        first = tokens.protected
        attention = cls_attention(attended, first)
        order = jnp.argsort(attention, axis=-1, descending=True)
        weights = jnp.take_along_axis(attention, order, axis=-1)[:, :, kept:]

        def fuse(x: jax.Array) -> jax.Array:
            patches = permute(x[:, :, first:], order)
            dropped = jnp.einsum("bgn,bgn...->bg...", weights.astype(x.dtype), patches[:, :, kept:])
            parts = [x[:, :, :first], patches[:, :, :kept], dropped[:, :, None]]
            return jnp.concatenate(parts, axis=2)

        return tokens.rearrange(fuse)


METHOD = EViT


def cls_attention(attended: AttentionOutput, protected: int) -> jax.Array:
    """Attention of the first CLS token to the patches, heads averaged, [b, g, n - protected]."""
    return attended.probabilities()[:, :, :, 0, protected:].mean(2)
