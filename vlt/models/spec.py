"""Sizes of the towers: what a checkpoint's tensors, and its config, say about a model."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class VisionSpec:
    """One ViT. CLIP is the default; EVA-CLIP-G differs in the last five fields."""

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: str = "quick_gelu"
    norm_eps: float = 1e-5
    pre_norm: bool = True
    patch_bias: bool = False
    key_bias: bool = True
    projection_bias: bool = False

    @property
    def patches(self) -> int:
        """Patches of one frame, n - 1."""
        return (self.image_size // self.patch_size) ** 2


@dataclasses.dataclass(frozen=True)
class TextSpec:
    """One causal text transformer, pooled at the token of the highest id (CLIP's EOT)."""

    context: int
    vocab: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: str = "quick_gelu"
    norm_eps: float = 1e-5


@dataclasses.dataclass(frozen=True)
class DualEncoderSpec:
    """A vision and a text tower that share an embedding space of `embed_dim` dimensions."""

    visual: VisionSpec
    text: TextSpec
    embed_dim: int

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict, as stored in a model folder's config.json."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "DualEncoderSpec":
        """Inverse of `to_dict`."""
        return cls(VisionSpec(**fields["visual"]), TextSpec(**fields["text"]), fields["embed_dim"])


def _clip(patch: int, width: int, layers: int, text_width: int, embed_dim: int) -> DualEncoderSpec:
    visual = VisionSpec(224, patch, width, layers, width // 64, 4 * width)
    text = TextSpec(77, 49408, text_width, 12, text_width // 64, 4 * text_width)
    return DualEncoderSpec(visual, text, embed_dim)


SIZES: dict[str, DualEncoderSpec] = {
    "tiny_clip": DualEncoderSpec(
        VisionSpec(32, 8, 96, 4, 3, 384), TextSpec(16, 43, 96, 2, 3, 384), embed_dim=64
    ),
    "clip_b32": _clip(32, 768, 12, 512, 512),
    "clip_b16": _clip(16, 768, 12, 512, 512),
    "clip_l14": _clip(14, 1024, 24, 768, 768),
    # Proportions of ViT-L/14 at half its width, for benchmarks on small machines.
    "clip_l14_narrow": DualEncoderSpec(
        VisionSpec(224, 14, 512, 24, 8, 2048), TextSpec(77, 49408, 384, 12, 6, 1536), embed_dim=384
    ),
    "eva_clip_g": DualEncoderSpec(
        VisionSpec(
            image_size=224,
            patch_size=14,
            width=1408,
            layers=40,
            heads=16,
            mlp_width=6144,
            activation="gelu",
            norm_eps=1e-6,
            pre_norm=False,
            patch_bias=True,
            key_bias=False,
            projection_bias=True,
        ),
        TextSpec(77, 49408, 768, 12, 12, 3072, activation="gelu"),
        embed_dim=1024,
    ),
}
