"""BLIP's and UMT's retrieval model: two towers with a joint space, and a text tower that matches.

The joint space ranks all videos for a text at the price of two vectors; matching reads a text
together with a video's tokens and judges the pair (BLIP, arXiv:2201.12086, section 3.1; UMT, Li et
al., ICCV 2023, section 3.3).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlt.models.bert import Bert, beginning_with
from vlt.models.layers import Dense
from vlt.models.spec import BlipSpec
from vlt.models.video_model import VideoModel
from vlt.models.vit import normalize

START_TEMPERATURE = 0.07


class Retriever(VideoModel):
    """Embeddings of videos and texts, and scores of pairs of a video and a text."""

    spec: BlipSpec

    def setup(self) -> None:
        self.visual = self.vision_tower(tokens_read=True)
        head = self.spec.masked_words
        self.text = Bert(self.spec.text, self.methods, head, dtype=self.dtype)
        self.text_projection = self._dense(self.spec.embed_dim)
        self.itm_head = self._dense(2)
        start = nn.initializers.constant(START_TEMPERATURE)
        self.temperature = self.param("temperature", start, ())

    def _dense(self, width: int) -> Dense:
        return Dense(width, methods=self.methods, dtype=self.dtype, kernel_init=self.spec.text.init)

    def encode_video(
        self, video: jax.Array, train: bool = False, capture: bool = False
    ) -> tuple[jax.Array, dict[str, Any]]:
        """uint8 RGB or normalised float [b, t, H, W, 3] -> unit vectors [b, e], and `out`.

        With `frame_scores`, the mean of the frames' unit vectors instead, whose product with a
        text's vector is the mean of their cosines. `out["tokens"]` [b, t * n, d] are what `match`
        reads.
        """
        embedding, out = self.visual(self.pixels(video), train, capture)
        found = embedding if self.frame_scores else normalize(embedding)
        return found, out | {"video_features": embedding}

    def encode_text(
        self, ids: jax.Array, train: bool = False, capture: bool = False
    ) -> tuple[jax.Array, dict[str, Any]]:
        """ids [b, l] -> unit vectors [b, e] of the first token, read without a video, and `out`.

        Where there is a `fusion_layer`, `out["states"]` [b, l, d] is what enters it.
        """
        hidden, _ = self.text(ids[:, None], train=train, alone=True, to_words=False)
        embedding = self.text_projection(hidden[:, 0, 0]).astype(jnp.float32)
        states = {"states": hidden[:, 0]} if self.spec.text.fusion_layer else {}
        return normalize(embedding), {"text_features": embedding} | states

    def match(
        self,
        tokens: jax.Array,
        ids: jax.Array,
        train: bool = False,
        states: jax.Array | None = None,
    ) -> jax.Array:
        """Videos' tokens [b, m, d] and g texts for each, ids [b, g, l] -> logits [b, g, 2].

        The second logit says that they belong together. The first token, whatever it is, is read as
        [ENC]. states: [b, g, l, d] of the texts, as `encode_text` returns them, from which a model
        with a `fusion_layer` starts at that layer.
        """
        ids = beginning_with(self.spec.text.encode_id, ids)
        hidden, _ = self.text(ids, tokens, train=train, states=states, to_words=False)
        return self.itm_head(hidden[:, :, 0]).astype(jnp.float32)

    def find_words(self, tokens: jax.Array, ids: jax.Array, train: bool = False) -> jax.Array:
        """Videos' tokens [b, m, d] and a text for each, ids [b, l] with masked words -> [b, l, v].

        Logits of the words, from a model with `masked_words`.
        """
        return self.text(ids[:, None], tokens, train=train)[0][:, 0]

    def __call__(
        self, video: jax.Array, ids: jax.Array, train: bool = False, capture: bool = False
    ) -> dict[str, Any]:
        """Both embeddings, and the match [b, 2] of each video with its own text, ids [b, l]."""
        video_embedding, visual = self.encode_video(video, train, capture)
        text_embedding, text = self.encode_text(ids, train, capture)
        words = self.spec.masked_words
        return {
            **({"words": self.find_words(visual["tokens"], ids, train)} if words else {}),
            "video": video_embedding,
            "text": text_embedding,
            "match": self.match(visual["tokens"], ids[:, None], train)[:, 0],
            "temperature": self.temperature,
            "visual_out": visual,
            "text_out": text,
        }
