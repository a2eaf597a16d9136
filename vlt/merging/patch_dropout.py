"""Random masking: training sees only some of the patches (ViCLIP, arXiv:2307.06942, Section 4.1).

As published, a fixed share of the patches of a group is left out, drawn anew for each sample; the
others keep their order and their positions, and the CLS token always stays. Where frames attend
jointly, a group is the whole video, otherwise one frame (FLIP, arXiv:2212.00794).
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from vlt.adapters.btadapter import draw_kept
from vlt.models.points import BlockScope, Method
from vlt.models.tokens import Tokens


@dataclasses.dataclass(frozen=True)
class PatchDropout(Method):
    """rate: share of a group's patches left out in training, rounded down to a whole number.

    Draws from the stream `mask`. Exported models and evaluations do not use it.

    Raises:
        ValueError: a rate outside [0, 1).
    """

    name: ClassVar[str] = "patch_dropout"
    needs: ClassVar[frozenset[str]] = frozenset({"attended_tokens"})
    breaks: ClassVar[frozenset[str]] = frozenset({"attended_tokens", "patch_places"})

    rate: float = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise ValueError(f"patch_dropout.rate must be >= 0 and < 1, got {self.rate}")

    def before_attention(self, block: BlockScope, tokens: Tokens) -> Tokens:
        """Point 1 of the first block, which unlike point 0 knows whether it is training."""
        if block.layer or not block.train:
            return tokens
        shape = (*tokens.x.shape[:2], tokens.patches)
        return keep_patches(tokens, draw_kept(block.make_rng("mask"), shape, self.rate))

    @property
    def training_only(self) -> bool:
        return True

    @property
    def mergeable(self) -> bool:
        return True

    def fold_for_inference(self, params: dict) -> tuple[None, dict]:
        """It has no leaves."""
        return None, params


METHOD = PatchDropout


def keep_patches(tokens: Tokens, kept: jax.Array) -> Tokens:
    """The protected tokens, then patches `kept`, int [b, g, k] counted without the protected."""

    def keep(x: jax.Array) -> jax.Array:
        index = tokens.protected + kept.reshape(*kept.shape, *[1] * (x.ndim - 3))
        patches = jnp.take_along_axis(x, index, axis=2)
        return jnp.concatenate([x[:, :, : tokens.protected], patches], axis=2)

    return tokens.rearrange(keep)
