"""Sizes of SigLIP, MetaCLIP 2, EVA02-CLIP, VideoPrism and PE-Core."""

import dataclasses
from typing import Any

from vlt.models.spec import (
    DualEncoderSpec,
    EncoderSpec,
    PoolerSpec,
    Spec,
    TextSpec,
    VisionSpec,
)


def _eva02(image: int, patch: int, width: int, layers: int, text_width: int) -> DualEncoderSpec:
    visual = VisionSpec(
        image,
        patch,
        width,
        layers,
        width // 64,
        int(width * 2.6667),
        activation="silu",
        norm_eps=1e-6,
        pre_norm=False,
        patch_bias=True,
        key_bias=False,
        projection_bias=True,
        rope="eva",
        gated_mlp=True,
        sub_norm=True,
    )
    return DualEncoderSpec(visual, _erf_text(77, text_width, 12), text_width)


def _erf_text(context: int, width: int, layers: int) -> TextSpec:
    """CLIP's text tower, with the exact GELU."""
    return TextSpec(context, 49408, width, layers, width // 64, 4 * width, activation="gelu")


def _pe_core(
    image: int,
    patch: int,
    width: int,
    layers: int,
    heads: int,
    text: TextSpec,
    mlp_width: int = 0,
    class_token: bool = True,
) -> DualEncoderSpec:
    """PE-Core; an MLP is four times as wide as what it reads unless `mlp_width` says otherwise."""
    visual = VisionSpec(
        image,
        patch,
        width,
        layers,
        heads,
        mlp_width or 4 * width,
        activation="gelu",
        pool="attention",
        rope="pe",
        pooler=PoolerSpec(8, width, 4 * width),
        class_token=class_token,
    )
    return DualEncoderSpec(visual, text, text.width)


def _siglip(
    image: int, tower: tuple[int, int, int, int, int], vocab: int = 256_000, context: int = 64
) -> DualEncoderSpec:
    """SigLIP with the sizes of a `_SIGLIP` tower for both its vision and its text tower."""
    patch, width, layers, heads, mlp_width = tower
    return _siglip_towers(
        image, patch, (width, layers, heads, mlp_width), tower[1:], vocab, context
    )


def _siglip_towers(
    image: int,
    patch: int,
    vision: tuple[int, int, int, int],
    words: tuple[int, int, int, int],
    vocab: int,
    context: int,
) -> DualEncoderSpec:
    """SigLIP, given width, layers, heads and MLP width of each tower."""
    width, _, heads, mlp_width = vision
    visual = VisionSpec(
        image,
        patch,
        *vision,
        activation="gelu_tanh",
        norm_eps=1e-6,
        pre_norm=False,
        patch_bias=True,
        pool="attention",
        pooler=PoolerSpec(heads, width, mlp_width),
        projection=False,
    )
    text = TextSpec(
        context,
        vocab,
        *words,
        activation="gelu_tanh",
        norm_eps=1e-6,
        causal=False,
        readout="last",
        projection_bias=True,
    )
    return DualEncoderSpec(visual, text, width, logit_bias=True)


def _metaclip2(
    image: int, patch: int, vision: tuple[int, int, int], words: tuple[int, int, int], quick: bool
) -> DualEncoderSpec:
    """MetaCLIP 2: a CLIP with XLM-V's vocabulary, given width, layers and heads of each tower; the
    text tower's width is that of the joint space."""
    activation = "quick_gelu" if quick else "gelu"
    visual = VisionSpec(image, patch, *vision, 4 * vision[0], activation=activation)
    text = TextSpec(
        77,
        901_629,
        *words,
        4 * words[0],
        activation=activation,
        pad_id=1,
        readout="end",
        end_id=2,
    )
    return DualEncoderSpec(visual, text, words[0])


def _videoprism(width: int, spatial: int, frames: int) -> DualEncoderSpec:
    """VideoPrism's video-text models (LvT); their text towers have twelve blocks."""
    heads, mlp_width = width // 64, 4 * width
    same: dict[str, Any] = {"norm_eps": 1e-6, "logit_cap": 50.0, "projection": False}
    visual = VisionSpec(
        288,
        18,
        width,
        spatial + 6,
        heads,
        mlp_width,
        activation="gelu",
        pre_norm=False,
        patch_bias=True,
        temporal_frames=frames,
        pool="attention",
        pooler=PoolerSpec(heads, mlp_width, channel_scale=True),
        stages=(spatial, 4, 2),
        **same,
    )
    text = TextSpec(
        64,
        32_000,
        width,
        12,
        heads,
        mlp_width,
        activation="relu",
        mask_padding=True,
        readout="last",
        positions="sinusoid",
        embedding_scale=True,
        class_token=True,
        **same,
    )
    return DualEncoderSpec(visual, text, width, fixed_scale=100.0)


def _videoprism_encoder(width: int, spatial: int, frames: int) -> EncoderSpec:
    """VideoPrism's video encoders alone, without the last blocks and what pools them."""
    visual = _videoprism(width, spatial, frames).visual
    stages = visual.stages[:2]
    visual = dataclasses.replace(
        visual, layers=sum(stages), stages=stages, pool="mean", pooler=None
    )
    return EncoderSpec(visual)


# Side of patches, width, layers, heads, width of the MLP.
_SIGLIP = {
    "b16": (16, 768, 12, 12, 3072),
    "l16": (16, 1024, 24, 16, 4096),
    "so400m14": (14, 1152, 27, 16, 4304),
}


SIZES_OF_TODAY: dict[str, Spec] = {
    # By side of images; a name leaves out the first of its tower's.
    **{
        f"siglip{version}_{tower}{'' if image == images[0] else f'_{image}'}": _siglip(
            image, _SIGLIP[tower], vocab
        )
        for version, vocab in (("2", 256_000), ("", 32_000))
        for tower, images in (
            ("b16", (224, 256, 384, 512)),
            ("l16", (256, 384, 512)[: 3 if version else 2]),
            ("so400m14", (224, 384) if version else (384,)),
        )
        for image in images
    },
    "siglip_so400m14_224": _siglip(224, _SIGLIP["so400m14"], 32_000, context=16),
    **{
        f"siglip2_g16{suffix}": _siglip_towers(
            image, 16, (1536, 40, 16, 6144), _SIGLIP["so400m14"][1:], 256_000, 64
        )
        for suffix, image in (("", 256), ("_384", 384))
    },
    "metaclip2_b16": _metaclip2(224, 16, (768, 12, 12), (512, 12, 8), False),
    "metaclip2_l14": _metaclip2(224, 14, (1024, 24, 16), (768, 12, 12), False),
    "metaclip2_h14": _metaclip2(224, 14, (1280, 32, 16), (1024, 24, 16), False),
    "metaclip2_h14_quickgelu": _metaclip2(224, 14, (1280, 32, 16), (1024, 24, 16), True),
    "eva02_b16": _eva02(224, 16, 768, 12, 512),
    "eva02_l14": _eva02(224, 14, 1024, 24, 768),
    "eva02_l14_336": _eva02(336, 14, 1024, 24, 768),
    "videoprism_b": _videoprism(768, 12, 16),
    "videoprism_l": _videoprism(1024, 24, 8),
    "videoprism_encoder_b": _videoprism_encoder(768, 12, 16),
    "videoprism_encoder_l": _videoprism_encoder(1024, 24, 8),
    "pe_t16": _pe_core(384, 16, 192, 12, 3, _erf_text(32, 512, 12)),
    "pe_s16": _pe_core(384, 16, 384, 12, 6, _erf_text(32, 512, 12)),
    "pe_b16": _pe_core(224, 16, 768, 12, 12, _erf_text(32, 1024, 24)),
    "pe_l14": _pe_core(336, 14, 1024, 24, 16, _erf_text(32, 1024, 24)),
    "pe_g14": _pe_core(448, 14, 1536, 50, 16, _erf_text(72, 1280, 24), 8960, class_token=False),
}
