"""A vision tower alone: tokens of a video, for whoever reads them."""

from typing import Any

import jax

from vlt.models.spec import EncoderSpec
from vlt.models.video_model import VideoModel


class VideoEncoder(VideoModel):
    """The tokens of one ViT and the methods on it, no text (VideoPrism's video encoders)."""

    spec: EncoderSpec

    def setup(self) -> None:
        self.shared = self.shared_modules()
        self.visual = self.vision_tower(tokens_read=True, shared=self.shared)

    def encode_video(
        self,
        video: jax.Array,
        train: bool = False,
        capture: bool = False,
        absent: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """uint8 RGB or normalised float [b, t, H, W, 3] -> tokens [b, t * n, d], and `out`.

        Tokens have passed the last LayerNorm; with stages, those of a frame are contiguous.
        absent: [b, t], see `VisionTransformer`.
        """
        return self.visual(self.pixels(video), train, capture, absent)

    def __call__(
        self, video: jax.Array, train: bool = False, capture: bool = False
    ) -> dict[str, Any]:
        """`tokens`, and as `visual_out` all outputs of the tower."""
        tokens, out = self.encode_video(video, train, capture)
        return {"tokens": tokens, "visual_out": out}
