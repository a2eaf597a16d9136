"""CLIP's shape: a vision and a text tower with a joint embedding space."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vlt.models.points import Method
from vlt.models.spec import DualEncoderSpec
from vlt.models.text import TextTransformer
from vlt.models.vit import VisionTransformer, normalize

ANY_FRAMES = 2  # where no leaf depends on the number of frames
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class DualEncoder(nn.Module):
    """Video and text embeddings from one ViT, one text transformer and the methods on them.

    frames: of the videos it is for, where leaves of a method depend on it (clip positions).
    mean, std: of the 0-1 pixel values the vision tower was trained with.
    """

    spec: DualEncoderSpec
    methods: tuple[Method, ...] = ()
    frames: int = ANY_FRAMES
    cls_only: bool = True
    frame_norm: bool = False
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    remat: bool = False
    dtype: Any = jnp.float32

    def setup(self) -> None:
        spec = self.spec
        shared = {type(m).__name__: m.shared_module(spec) for m in self.methods}
        self.shared = {name: module for name, module in shared.items() if module is not None}
        self.visual = VisionTransformer(
            spec.visual,
            spec.embed_dim,
            self.methods,
            self.cls_only,
            self.frame_norm,
            self.shared,
            self.remat,
            self.dtype,
        )
        self.text = TextTransformer(
            spec.text, spec.embed_dim, self.methods, self.shared, self.remat, self.dtype
        )
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(np.log(1 / 0.07)), ())

    def encode_video(
        self, video: jax.Array, train: bool = False, capture: bool = False
    ) -> tuple[jax.Array, dict[str, Any]]:
        """uint8 RGB or normalised float [b, t, H, W, 3] -> unit vectors [b, e], and `out`."""
        if video.dtype == jnp.uint8:
            video = (video / 255.0 - np.asarray(self.mean)) / np.asarray(self.std)
        embedding, out = self.visual(video.astype(self.dtype), train, capture)
        return normalize(embedding), out | {"video_features": embedding}

    def encode_text(
        self, ids: jax.Array, train: bool = False, capture: bool = False
    ) -> tuple[jax.Array, dict[str, Any]]:
        """ids [b, l] -> unit vectors [b, e], and `out`."""
        embedding, out = self.text(ids, train, capture)
        return normalize(embedding), out | {"text_features": embedding}

    def __call__(
        self, video: jax.Array, ids: jax.Array, train: bool = False, capture: bool = False
    ) -> dict[str, Any]:
        """Both embeddings and all that the towers put out, in one dict."""
        video_embedding, visual = self.encode_video(video, train, capture)
        text_embedding, text = self.encode_text(ids, train, capture)
        return {
            "video": video_embedding,
            "text": text_embedding,
            "logit_scale": self.logit_scale,
            "visual_out": visual,
            "text_out": text,
        }
