"""What every model has: frames, a vision tower, and methods on its towers."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vlt.models.compatibility import check_methods
from vlt.models.fused import implementation
from vlt.models.points import Method, of_tower
from vlt.models.spec import BlipSpec, Spec
from vlt.models.vit import VisionTransformer

ANY_FRAMES = 2  # stands in for the number of frames where no leaf depends on it
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class VideoModel(nn.Module):
    """A model of videos and texts.

    Every kind of model has `encode_video(video, train, capture) -> (features, out)`, and
    `__call__(*inputs, train, capture) -> dict` with all that a loss may read; the call uses every
    leaf. `vlt.model_io.build.example_inputs` has the shapes of its inputs.

    frames: number of frames of its videos, where leaves of a method depend on it (clip positions).
    mean, std: of the 0-1 pixel values the vision tower was trained with. cls_only, frame_norm,
    remat, drop_path: see `VisionTransformer`. renormalise: False if a video's embedding is the mean
    of unit frame embeddings as it is, as in PE-Core's retrieval (`frame_scores`). weights: how a
    language model's weights are stored, see vlt/models/narrow.py. attention: `auto`, `plain` or
    `fused`, see vlt/models/fused.py.
    """

    spec: Spec
    methods: tuple[Method, ...] = ()
    frames: int = ANY_FRAMES
    cls_only: bool = True
    frame_norm: bool = False
    renormalise: bool = True
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    remat: str = "none"
    drop_path: float = 0.0
    dtype: Any = jnp.float32
    weights: str = ""
    attention: str = "auto"

    @nn.nowrap
    def apply(self, *args: Any, **kwargs: Any) -> Any:
        """`nn.Module.apply`, with attention computed as `attention` says."""
        with implementation(self.attention):
            return super().apply(*args, **kwargs)

    def encode_video(
        self, video: jax.Array, train: bool = False, capture: bool = False
    ) -> tuple[jax.Array, dict[str, Any]]:
        """uint8 RGB or normalised float [b, t, H, W, 3] -> features, and `out` of the tower."""
        raise NotImplementedError

    def vision_tower(
        self, tokens_read: bool, shared: Mapping[str, nn.Module] | None = None
    ) -> VisionTransformer:
        """The vision tower, for a `setup`.

        Raises ValueError for methods that do not fit the model or each other.
        """
        check_methods(self.methods, self.spec)
        return VisionTransformer(
            self.spec.visual,
            self.spec.embed_dim,
            self.methods,
            cls_only=self.cls_only,
            frame_norm=self.frame_norm or self.frame_scores,
            shared=shared,
            remat=self.remat,
            drop_path=self.drop_path,
            dtype=self.dtype,
            tokens_read=tokens_read,
        )

    def shared_modules(self) -> dict[str, nn.Module]:
        """Modules of methods that both towers use (point 11), for a `setup`."""
        shared = {type(m).__name__: m.shared_module(self.spec) for m in self.methods}
        return {name: module for name, module in shared.items() if module is not None}

    @property
    def scores_pairs(self) -> bool:
        """Whether a method scores pairs by more than the cosine of their embeddings."""
        return any(method.scores_pairs for method in self.methods)

    @property
    def known_classes(self) -> int:
        """Number of training classes that a method has leaves for; 0 for none."""
        return max((method.known_classes for method in self.methods), default=0)

    @property
    def reads_sentences(self) -> bool:
        """Whether a method reads sentences that describe classes."""
        return any(method.reads_sentences for method in self.methods)

    @property
    def frame_scores(self) -> bool:
        """Whether a score is the mean over frames of their cosines with the text."""
        published = isinstance(self.spec, BlipSpec) and self.spec.frame_scores
        published |= not self.renormalise
        return published or any(method.frame_scores for method in self.methods)

    @property
    def longest_text(self) -> int:
        """Most tokens of a text: the text model's positions without those that methods take."""
        taken = sum(method.text_positions for method in of_tower(self.methods, "text"))
        return self.spec.text.context - taken

    def pixels(self, video: jax.Array) -> jax.Array:
        """uint8 RGB or already normalised float [b, t, H, W, 3] -> normalised."""
        if video.dtype == jnp.uint8:
            video = (video / 255.0 - np.asarray(self.mean)) / np.asarray(self.std)
        return video.astype(self.dtype)
