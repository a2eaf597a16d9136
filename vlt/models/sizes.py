"""The backbones by name: sizes of published models, and of the tiny ones shipped here."""

import dataclasses
from typing import Any

from vlt.models.spec import (
    BLIP_KINDS,
    BertSpec,
    BlipSpec,
    ChatSpec,
    DualEncoderSpec,
    LlamaSpec,
    PoolerSpec,
    QFormerSpec,
    Spec,
    TextSpec,
    VisionSpec,
)


def _clip(
    patch: int,
    width: int,
    layers: int,
    text_width: int,
    embed_dim: int,
    context: int = 77,
    temporal_frames: int = 0,
) -> DualEncoderSpec:
    visual = VisionSpec(
        224, patch, width, layers, width // 64, 4 * width, temporal_frames=temporal_frames
    )
    text = TextSpec(context, 49408, text_width, 12, text_width // 64, 4 * text_width)
    return DualEncoderSpec(visual, text, embed_dim)


def _blip_vision(image: int, patch: int, width: int, layers: int, heads: int) -> VisionSpec:
    return VisionSpec(
        image,
        patch,
        width,
        layers,
        heads,
        4 * width,
        activation="gelu",
        norm_eps=1e-6,
        pre_norm=False,
        patch_bias=True,
        projection_bias=True,
    )


def _blip(kind: str, width: int, layers: int, embed_dim: int) -> BlipSpec:
    """BLIP base (768, 12) and large (1024, 24); the text model is the same."""
    visual = _blip_vision(224, 16, width, layers, width // 64)
    return BlipSpec(
        kind, visual, BertSpec(512, 30524, 768, 12, 12, 3072, source_width=width), embed_dim
    )


def _umt(kind: str, **fields: Any) -> BlipSpec:
    """UMT-B/16. Its text model is BERT base, whose last three layers read the video."""
    visual = VisionSpec(
        image_size=224,
        patch_size=16,
        width=768,
        layers=12,
        heads=12,
        mlp_width=3072,
        activation="gelu",
        norm_eps=1e-6,
        pre_norm=False,
        patch_bias=True,
        key_bias=False,
        projection_bias=True,
        pool="token_mean",
        pool_norm=True,
        positions="sinusoid",
        joint=True,
    )
    text = BertSpec(
        512,
        30522,
        768,
        12,
        12,
        3072,
        source_width=768,
        decode_id=101,
        encode_id=101,
        fusion_layer=9,
        token_types=2,
    )
    joint_space = 512 if kind == "retriever" else 0
    return BlipSpec(kind, visual, text, joint_space, frame_scores=kind == "retriever", **fields)


def _eva_g(layers: int) -> VisionSpec:
    """EVA-CLIP-G, of 40 blocks; language models read it without its last."""
    return VisionSpec(
        image_size=224,
        patch_size=14,
        width=1408,
        layers=layers,
        heads=16,
        mlp_width=6144,
        activation="gelu",
        norm_eps=1e-6,
        pre_norm=False,
        patch_bias=True,
        key_bias=False,
        projection_bias=True,
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
    """SigLIP of a `_SIGLIP` tower, twice: its text tower has the same."""
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
    """Of each tower width, layers, heads and the width of its MLP."""
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
    """MetaCLIP 2: a CLIP that reads XLM-V's words. Of each tower width, layers and heads; the text
    tower's width is that of the joint space."""
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


def _llama(size: str, vocab: int, context: int = 2048, norm_eps: float = 1e-6) -> LlamaSpec:
    """LLaMA and Vicuna of `7b` and `13b`; their second versions differ in the last two."""
    width, layers, mlp_width = {"7b": (4096, 32, 11008), "13b": (5120, 40, 13824)}[size]
    return LlamaSpec(context, vocab, width, layers, width // 128, mlp_width, norm_eps)


def _llava(size: str, vocab: int) -> ChatSpec:
    """LLaVA, on Vicuna, with its tokens around an image and BT-Adapter's around a video."""
    return ChatSpec(_clip(14, 1024, 24, 768, 768).visual, _llama(size, vocab))


def _llava_15(size: str) -> ChatSpec:
    """LLaVA-1.5: an MLP, frames of 336 pixels, Vicuna 1.5, no tokens of its own."""
    visual = dataclasses.replace(_clip(14, 1024, 24, 768, 768).visual, image_size=336)
    return ChatSpec(visual, _llama(size, 32000, 4096, 1e-5), "mlp", cls="none")


def _queried(size: str, vocab: int, instruction: int) -> ChatSpec:
    """MiniGPT-4, and InstructBLIP, whose Q-Former knows so many words of an instruction."""
    qformer = QFormerSpec(
        32, 768, 12, 12, 3072, 1408, vocab=instruction, context=512 * (instruction > 0)
    )
    return ChatSpec(_eva_g(39), _llama(size, vocab), "qformer", qformer, read=1, cls="first")


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


# Sides of patches, width, layers, heads, width of the MLP.
_SIGLIP = {
    "b16": (16, 768, 12, 12, 3072),
    "l16": (16, 1024, 24, 16, 4096),
    "so400m14": (14, 1152, 27, 16, 4304),
}


SIZES: dict[str, Spec] = {
    "tiny_clip": DualEncoderSpec(
        VisionSpec(32, 8, 96, 4, 3, 384), TextSpec(16, 43, 96, 2, 3, 384), embed_dim=64
    ),
    "tiny_viclip": DualEncoderSpec(
        VisionSpec(32, 8, 96, 4, 3, 384, init_std=0.5, temporal_frames=8),
        TextSpec(16, 43, 96, 2, 3, 384),
        embed_dim=64,
    ),
    "clip_b32": _clip(32, 768, 12, 512, 512),
    "clip_b16": _clip(16, 768, 12, 512, 512),
    "clip_l14": _clip(14, 1024, 24, 768, 768),
    "viclip_b16": _clip(16, 768, 12, 512, 512, context=32, temporal_frames=8),
    "viclip_l14": _clip(14, 1024, 24, 768, 768, context=32, temporal_frames=8),
    # Proportions of ViT-L/14 at half its width, for benchmarks on small machines.
    "clip_l14_narrow": DualEncoderSpec(
        VisionSpec(224, 14, 512, 24, 8, 2048), TextSpec(77, 49408, 384, 12, 6, 1536), embed_dim=384
    ),
    "eva_clip_g": DualEncoderSpec(
        _eva_g(40),
        TextSpec(77, 49408, 768, 12, 12, 3072, activation="gelu"),
        embed_dim=1024,
    ),
    # By sides of images; the first of each is the one that goes without saying.
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
    "pe_t16": _pe_core(384, 16, 192, 12, 3, _erf_text(32, 512, 12)),
    "pe_s16": _pe_core(384, 16, 384, 12, 6, _erf_text(32, 512, 12)),
    "pe_b16": _pe_core(224, 16, 768, 12, 12, _erf_text(32, 1024, 24)),
    "pe_l14": _pe_core(336, 14, 1024, 24, 16, _erf_text(32, 1024, 24)),
    "pe_g14": _pe_core(448, 14, 1536, 50, 16, _erf_text(72, 1280, 24), 8960, class_token=False),
    "tiny_blip": BlipSpec(
        "captioner",
        # Of CLIP's deviation, 0.1, training leaves left and right alike to all that follows.
        dataclasses.replace(_blip_vision(32, 8, 96, 4, 3), init_std=0.5),
        # Moving shapes have one token to start a text with, whatever it is for.
        BertSpec(
            16,
            43,
            96,
            2,
            3,
            384,
            96,
            decode_id=41,
            encode_id=41,
            end_id=42,
            dropout=0.0,
            init_std=0.1,
        ),
    ),
    "tiny_chat": ChatSpec(
        VisionSpec(32, 8, 96, 4, 3, 384),
        LlamaSpec(256, 487, 96, 4, 3, 256),
        # All of the tiny CLIP: what happens is told by its last block, which reads texts' words.
        read=1,
    ),
    **{
        f"blip_{size}_{kind}": _blip(kind, width, layers, embed_dim)
        for size, width, layers in (("b16", 768, 12), ("l16", 1024, 24))
        for kind, embed_dim in BLIP_KINDS.items()
    },
    "umt_b16_retriever": _umt("retriever"),
    "umt_b16_answerer": _umt("answerer"),
    # With the head that finds masked words in pre-training.
    "umt_b16_pretraining": _umt("retriever", masked_words=True),
    **{
        name: sizes
        for size in ("7b", "13b")
        for name, sizes in {
            f"llava_{size}": _llava(size, 32006),
            f"llava_image_{size}": _llava(size, 32003),
            f"llava15_{size}": _llava_15(size),
            f"minigpt4_{size}": _queried(size, 32000, 0),
            f"instructblip_{size}": _queried(size, 32001, 30523),
        }.items()
    },
}
