"""BLIP's question answering: one BERT reads the question about a video, another writes the answer.

BLIP (Li et al., arXiv:2201.12086), section 5.3 and Figure 5. UMT's decoder has as many
layers as its question encoder has layers that read the video.
"""

from typing import Any

import jax
import jax.numpy as jnp

from vlt.models.bert import Bert, Memory, beginning_with
from vlt.models.spec import BlipSpec
from vlt.models.video_model import VideoModel


class Answerer(VideoModel):
    """Tokens of all frames, a question that reads them, and an answer that reads the question."""

    spec: BlipSpec

    def setup(self) -> None:
        self.visual = self.vision_tower(tokens_read=True)
        self.question = Bert(self.spec.text, self.methods, dtype=self.dtype)
        self.text = Bert(self.spec.text.writer, self.methods, head=True, dtype=self.dtype)

    def encode_video(
        self, video: jax.Array, train: bool = False, capture: bool = False
    ) -> tuple[jax.Array, dict[str, Any]]:
        """uint8 RGB or normalised float [b, t, H, W, 3] -> tokens [b, t * n, d], and `out`."""
        return self.visual(self.pixels(video), train, capture)

    def encode_question(
        self, tokens: jax.Array, ids: jax.Array, train: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """Tokens [b, m, d] and a question about each video, ids [b, l] -> states, and their mask.

        States [b, l, d] are what `decode` reads, with the mask [b, l] as its `source_bias`.
        The first token, whatever it is, is read as [ENC].
        """
        ids = beginning_with(self.spec.text.encode_id, ids)
        states, _ = self.question(ids[:, None], tokens, train=train)
        return states[:, 0], jnp.where(ids == 0, jnp.finfo(jnp.float32).min, 0.0)

    def decode(
        self,
        ids: jax.Array,
        tokens: jax.Array | None = None,
        memory: list[Memory] | None = None,
        index: jax.Array | int = 0,
        source_bias: jax.Array | None = None,
        train: bool = False,
    ) -> tuple[jax.Array, list[Memory]]:
        """ids [b, g, l], states of questions [b, m, d] or memory -> logits [b, g, l, v], memory."""
        return self.text(
            ids,
            tokens,
            causal=True,
            source_bias=source_bias,
            memory=memory,
            index=index,
            train=train,
        )

    def __call__(
        self,
        video: jax.Array,
        question: jax.Array,
        answer: jax.Array,
        train: bool = False,
        capture: bool = False,
    ) -> dict[str, Any]:
        """Question and answer, ids [b, l] -> `logits` [b, l, v] for what follows each answer token.

        The first token of an answer, whatever it is, is read as [DEC].
        """
        tokens, visual = self.encode_video(video, train, capture)
        states, mask = self.encode_question(tokens, question, train)
        answer = beginning_with(self.spec.text.decode_id, answer)
        logits, _ = self.decode(answer[:, None], states, source_bias=mask, train=train)
        return {"logits": logits[:, 0], "visual_out": visual}
