"""EViT: patches the CLS token attends to least are fused into one (Liang et al., arXiv:2202.07800).

Every layer prunes on its own; nothing is learned. The published training starts at keep rate 1 and
lowers it by a cosine. That changes shapes from step to step, so it is left out: the keep rate is
that of inference from the first step.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from vlt.merging.matching import permute
from vlt.models.options import check_layers, require_some
from vlt.models.points import BlockScope, Method
from vlt.models.spec import Spec
from vlt.models.tokens import AttentionOutput, Tokens

RANKS = ("class_token", "received")


@dataclasses.dataclass(frozen=True)
class EViT(Method):
    """layers: blocks that prune, from 0. keep: share of the patches that each of them keeps.

    attention: the attention by which patches are ranked: `class_token`, what the class token pays
        them; `received`, the mean of what all tokens of their group do, where there is no class
        token.

    Raises:
        ValueError: unknown attention.
    """

    name: ClassVar[str] = "evit"
    needs: ClassVar[frozenset[str]] = frozenset({"frame_groups", "attended_tokens"})
    breaks: ClassVar[frozenset[str]] = frozenset({"attended_tokens", "patch_places"})

    layers: tuple[int, ...] = (3, 6, 9)
    keep: float = 0.7
    attention: str = "class_token"

    def __post_init__(self) -> None:
        require_some(self.name, "attention", (self.attention,), RANKS)

    def needs_here(self) -> frozenset[str]:
        return super().needs_here() | ranking_needs(self.attention)

    def check(self, spec: Spec, frames: int) -> None:
        """Raises ValueError for layers the tower does not have and for shares outside (0, 1)."""
        check_layers("evit.layers", self.layers, spec.visual.layers)
        if not 0 < self.keep < 1:
            raise ValueError(f"evit.keep must be > 0 and < 1, got {self.keep}")

    def after_attention(
        self, block: BlockScope, tokens: Tokens, attended: AttentionOutput
    ) -> Tokens:
        """Point 6: [protected | the patches kept, by falling attention | the fused token].

        The fused token is the sum of the dropped ones, each times the attention that ranked it
        (heads averaged, not renormalised), and is a patch like any other from then on. Its place is
        the mean of theirs with the same weights.
        """
        if block.layer not in self.layers:
            return tokens
        kept = math.ceil(self.keep * tokens.patches)
        if kept == tokens.patches:
            return tokens
        first = tokens.protected
        attention = paid_attention(attended, tokens, self.attention)
        order = jnp.argsort(attention, axis=-1, descending=True)
        weights = jnp.take_along_axis(attention, order, axis=-1)[:, :, kept:]

        def fuse(x: jax.Array) -> jax.Array:
            patches = permute(x[:, :, first:], order)
            dropped = jnp.einsum("bgn,bgn...->bg...", weights.astype(x.dtype), patches[:, :, kept:])
            parts = [x[:, :, :first], patches[:, :, :kept], dropped[:, :, None]]
            return jnp.concatenate(parts, axis=2)

        fused = tokens.rearrange(fuse)
        if fused.places is None:
            return fused
        share = weights.sum(-1).clip(1e-12)[:, :, None]
        return fused.replace(places=fused.places.at[:, :, -1].divide(share))


METHOD = EViT


def ranking_needs(attention: str) -> frozenset[str]:
    """What a method that ranks patches by this attention needs."""
    return frozenset({"class_token"} if attention == "class_token" else ())


def paid_attention(attended: AttentionOutput, tokens: Tokens, attention: str) -> jax.Array:
    """Attention to the patches, heads averaged, [b, g, n - protected]: by the first CLS token, or
    by all tokens, each counted as often as it has patches."""
    paid = attended.probabilities()
    if attention == "class_token":
        return paid[:, :, :, 0, tokens.protected :].mean(2)
    size = jnp.ones(tokens.x.shape[:3]) if tokens.size is None else tokens.size
    share = size / size.sum(-1, keepdims=True)
    return jnp.einsum("bgq,bghqn->bgn", share, paid[..., tokens.protected :]) / paid.shape[2]
