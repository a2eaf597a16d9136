"""BLIP's captioner: a vision tower whose tokens a BERT decoder reads (Token Mixing, Section 3)."""

from typing import Any

import jax

from vlt.models.bert import Bert, Memory, beginning_with
from vlt.models.spec import BlipSpec
from vlt.models.video_model import VideoModel


class Captioner(VideoModel):
    """Tokens of all frames, and the next word of a caption given those before it."""

    spec: BlipSpec

    def setup(self) -> None:
        self.visual = self.vision_tower(tokens_read=True)
        self.text = Bert(self.spec.text, self.methods, head=True, dtype=self.dtype)

    def encode_video(
        self, video: jax.Array, train: bool = False, capture: bool = False
    ) -> tuple[jax.Array, dict[str, Any]]:
        """uint8 RGB or normalised float [b, t, H, W, 3] -> tokens [b, t * n, d], and `out`."""
        return self.visual(self.pixels(video), train, capture)

    def decode(
        self,
        ids: jax.Array,
        tokens: jax.Array | None = None,
        memory: list[Memory] | None = None,
        index: jax.Array | int = 0,
        train: bool = False,
    ) -> tuple[jax.Array, list[Memory]]:
        """ids [b, g, l], tokens [b, m, d] or memory -> logits [b, g, l, v], and the memory."""
        return self.text(ids, tokens, causal=True, memory=memory, index=index, train=train)

    def __call__(
        self, video: jax.Array, ids: jax.Array, train: bool = False, capture: bool = False
    ) -> dict[str, Any]:
        """ids [b, l] of whole captions -> `logits` [b, l, v] of what follows each token.

        The first token, whatever it is, is read as [DEC].
        """
        tokens, visual = self.encode_video(video, train, capture)
        ids = beginning_with(self.spec.text.decode_id, ids)
        logits, _ = self.decode(ids[:, None], tokens, train=train)
        return {"logits": logits[:, 0], "tokens": tokens, "visual_out": visual}
