"""CLIP's shape: a vision and a text tower with a joint embedding space."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from vlt.models.points import Embedded
from vlt.models.spec import DualEncoderSpec
from vlt.models.text import TextTransformer
from vlt.models.video_model import VideoModel
from vlt.models.vit import normalize

PAIRS = 2**14  # pairs of a video and a text that a device scores at once


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
        scale = 10.0 if spec.logit_bias else 1 / 0.07
        if spec.fixed_scale:
            self.logit_scale = log_scale(self, {})
        else:
            start = nn.initializers.constant(np.log(scale))
            self.logit_scale = self.param("logit_scale", start, ())
        if spec.logit_bias:
            self.logit_bias = self.param("logit_bias", nn.initializers.constant(-10.0), ())

    def encode_video(
        self,
        video: jax.Array,
        train: bool = False,
        capture: bool = False,
        absent: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """uint8 RGB or normalised float [b, t, H, W, 3] -> unit vectors [b, e], and `out`.

        With `frame_scores`, the mean of the frames' unit vectors instead, whose product with a
        text's vector is the mean of their cosines. absent: [b, t], see `VisionTransformer`.
        `out["frames"]` [b, t, e] are the embeddings of frames, `out["raw_frames"]` those before
        `frame_norm`, if a method scores pairs.
        """
        embedding, out = self.visual(self.pixels(video), train, capture, absent)
        found = embedding if self.frame_scores else normalize(embedding)
        return found, out | {"video_features": embedding}

    def encode_text(
        self,
        ids: jax.Array,
        train: bool = False,
        capture: bool = False,
        classes: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """ids [b, l] -> unit vectors [b, e], and `out`.

        classes: [b] which of the training classes each text names.
        """
        embedding, out = self.text(ids, train, capture, classes)
        return normalize(embedding), out | {"text_features": embedding}

    def video_parts(self, out: Mapping[str, Any]) -> dict[str, jax.Array]:
        """What `scores` reads from the `out` of `encode_video`."""
        extras = {name: out[name] for m in self.methods for name in m.video_extras}
        return {"frames": out["raw_frames" if self.scores_pairs else "frames"], **extras}

    def text_parts(self, out: Mapping[str, Any]) -> dict[str, jax.Array]:
        """What `scores` reads from the `out` of `encode_text`."""
        extras = {name: out[name] for m in self.methods for name in m.text_extras}
        return {"features": out["text_features"], **extras}

    def scores(self, video: Embedded, text: Embedded, train: bool = False) -> jax.Array:
        """`video_parts` of v videos and `text_parts` of c texts -> scores [v, c].

        Cosines of videos and texts, or what methods make of them; the logit scale is applied later.
        Many pairs are computed a block of videos at a time, and again for the gradient.
        """
        blocks = blocks_of_pairs(len(video["frames"]), len(text["features"]))
        if blocks == 1 or self.is_initializing():
            return self.scores_at_once(video, text, train)

        def score(model: "DualEncoder", carry: None, some: Embedded) -> tuple[None, jax.Array]:
            return carry, model.scores_at_once(some, text, train)

        scan = nn.scan(
            nn.remat(score),
            variable_broadcast="params",
            split_rngs={"params": False, "dropout": True, "mask": True},
        )
        # A block takes every n-th row, so that rows stay on the device that holds them.
        some = jax.tree.map(lambda x: x.reshape(-1, blocks, *x.shape[1:]).swapaxes(0, 1), video)
        _, found = scan(self, None, some)
        return found.swapaxes(0, 1).reshape(-1, found.shape[-1])

    @nn.compact
    def scores_at_once(self, video: Embedded, text: Embedded, train: bool = False) -> jax.Array:
        """`scores` of all pairs at once, however many, with products in float32 on accelerators."""
        unit_frames = self.frame_norm or self.frame_scores
        mean = (normalize(video["frames"]) if unit_frames else video["frames"]).mean(1)
        mean = mean if self.frame_scores else normalize(mean)
        with jax.default_matmul_precision("highest"):
            scores = mean @ normalize(text["features"]).T
            for method in self.methods:
                if method.scores_pairs:
                    scores = method.score(self, video, text, scores, train)
        return scores

    def __call__(
        self, video: jax.Array, ids: jax.Array, train: bool = False, capture: bool = False
    ) -> dict[str, Any]:
        """Both embeddings and all outputs of the towers, in one dict.

        It has `scores` [b, b] of every video with every text if a method scores pairs.
        """
        video_embedding, visual = self.encode_video(video, train, capture)
        text_embedding, text = self.encode_text(ids, train, capture)
        scores = {}
        if self.scores_pairs:
            parts = self.video_parts(visual), self.text_parts(text)
            scores["scores"] = self.scores(*parts, train)
        if self.spec.logit_bias:
            scores["logit_bias"] = self.logit_bias
        return scores | {
            "video": video_embedding,
            "text": text_embedding,
            "logit_scale": self.logit_scale,
            "visual_out": visual,
            "text_out": text,
        }


def log_scale(model: VideoModel, params: Mapping[str, Any]) -> jax.Array | np.float32:
    """Natural logarithm of the scale of cosines: a leaf, or fixed by the spec."""
    if "logit_scale" not in params and isinstance(model.spec, DualEncoderSpec):
        return np.log(np.float32(model.spec.fixed_scale))
    scale: jax.Array = params["logit_scale"]
    return scale


def blocks_of_pairs(videos: int, texts: int) -> int:
    """Number of equal blocks of videos with which a device scores at most `PAIRS` at a time."""
    mesh = jax.sharding.get_abstract_mesh()
    rows = PAIRS * (1 if mesh.empty else mesh.size) // max(texts, 1)
    fitting = (n for n in range(1, videos + 1) if videos % n == 0 and videos // n <= rows)
    return next(fitting, videos)
