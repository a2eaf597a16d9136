"""A text-only training signal that keeps words which no single frame shows.

A contrastive loss on single frames drives captions that differ only in motion together, because
nothing in a frame tells them apart, and a frozen text tower cannot name a direction afterwards.
Here a linear head has to spell the caption from the text embedding. It reads no frame.
"""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax

from vlt.models.points import Method, TextScope
from vlt.models.vit import normalize


@dataclasses.dataclass(frozen=True)
class CaptionReconstruction(Method):
    """scale: norm of the text embedding that the head reads."""

    name: ClassVar[str] = "caption_reconstruction"
    needs: ClassVar[frozenset[str]] = frozenset({"text_tower"})

    scale: float = 8.0

    @property
    def training_only(self) -> bool:
        return True

    @property
    def towers(self) -> tuple[str, ...]:
        return ("text",)

    def text_head(
        self, tower: TextScope, features: jax.Array, train: bool
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Point 9 of the text tower: logits of every position [b, l, v]."""
        if not train:
            return features, {}
        spec = tower.spec
        head = nn.Dense(spec.context * spec.vocab, name="caption_reconstruction")
        logits = head(self.scale * normalize(features))
        return features, {"token_logits": logits.reshape(-1, spec.context, spec.vocab)}


METHOD = CaptionReconstruction
