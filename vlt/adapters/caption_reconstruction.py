"""A text-only training signal that preserves words which no single frame shows.

A contrastive loss on single frames pulls together captions that differ only in motion, because
nothing in a frame tells them apart, and a text tower frozen afterwards cannot name a direction.
Here a linear head has to spell out the caption from the text embedding. It reads no frame.
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
        """Point 9 of the text tower: in training, `token_logits` [b, l, v] of every position."""
        if not train:
            return features, {}
        spec = tower.spec
        head = nn.Dense(spec.context * spec.vocab, name="caption_reconstruction")
        logits = head(self.scale * normalize(features))
        return features, {"token_logits": logits.reshape(-1, spec.context, spec.vocab)}


METHOD = CaptionReconstruction
