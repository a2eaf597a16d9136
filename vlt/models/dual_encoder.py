"""CLIP's shape: a vision and a text tower with a joint embedding space."""

from typing import Any

import flax.linen as nn
import jax
import numpy as np

from vlt.models.spec import DualEncoderSpec
from vlt.models.text import TextTransformer
from vlt.models.video_model import VideoModel
from vlt.models.vit import normalize


class DualEncoder(VideoModel):
    """Video and text embeddings from one ViT, one text transformer and the methods on them."""

    spec: DualEncoderSpec

    def setup(self) -> None:
        spec = self.spec
        self.shared = self.shared_modules()
        self.visual = self.vision_tower(tokens_read=False, shared=self.shared)
        self.text = TextTransformer(
            spec.text, spec.embed_dim, self.methods, self.shared, self.remat, self.dtype
        )
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(np.log(1 / 0.07)), ())

    def encode_video(
        self, video: jax.Array, train: bool = False, capture: bool = False
    ) -> tuple[jax.Array, dict[str, Any]]:
        """uint8 RGB or normalised float [b, t, H, W, 3] -> unit vectors [b, e], and `out`.

        `out["frames"]` [b, t, e] are the embeddings of frames that `scores` reads.
        """
        embedding, out = self.visual(self.pixels(video), train, capture)
        return normalize(embedding), out | {"video_features": embedding}

    def encode_text(
        self,
        ids: jax.Array,
        train: bool = False,
        capture: bool = False,
        classes: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """ids [b, l] -> unit vectors [b, e], and `out`.

        classes: [b] which of the classes that the model is trained on each text names.
        """
        embedding, out = self.text(ids, train, capture, classes)
        return normalize(embedding), out | {"text_features": embedding}

    def scores(self, frames: jax.Array, texts: jax.Array) -> jax.Array:
        """Embeddings of frames [v, t, e] and unit vectors of texts [c, e] -> scores [v, c].

        Cosines of videos and texts, or what methods make of them; the logit scale comes after it.
        """
        scores = normalize(frames.mean(1)) @ texts.T
        for method in self.methods:
            scores = method.score(self, frames, texts, scores)
        return scores

    def __call__(
        self, video: jax.Array, ids: jax.Array, train: bool = False, capture: bool = False
    ) -> dict[str, Any]:
        """Both embeddings and all that the towers put out, in one dict.

        With `scores` [b, b] of every video with every text where a method scores pairs.
        """
        video_embedding, visual = self.encode_video(video, train, capture)
        text_embedding, text = self.encode_text(ids, train, capture)
        pairs = self.scores_pairs
        return {
            **({"scores": self.scores(visual["frames"], text_embedding)} if pairs else {}),
            "video": video_embedding,
            "text": text_embedding,
            "logit_scale": self.logit_scale,
            "visual_out": visual,
            "text_out": text,
        }
