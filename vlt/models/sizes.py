"""The backbones by name: sizes of published models, and of the tiny ones shipped here."""

import dataclasses
from typing import Any

from vlt.models.sizes_of_today import SIZES_OF_TODAY
from vlt.models.spec import (
    BLIP_KINDS,
    BertSpec,
    BlipSpec,
    ChatSpec,
    DualEncoderSpec,
    LlamaSpec,
    QFormerSpec,
    Spec,
    TextSpec,
    VisionSpec,
    with_visual,
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
    """EVA-CLIP-G, which has 40 blocks; language models read it without the last one."""
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


def _llama(size: str, vocab: int, context: int = 2048, norm_eps: float = 1e-6) -> LlamaSpec:
    """LLaMA and Vicuna, `7b` or `13b`; their second versions differ in the last two arguments."""
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
    """MiniGPT-4, or InstructBLIP, whose Q-Former knows `instruction` words (0 for MiniGPT-4)."""
    qformer = QFormerSpec(
        32, 768, 12, 12, 3072, 1408, vocab=instruction, context=512 * (instruction > 0)
    )
    return ChatSpec(_eva_g(39), _llama(size, vocab), "qformer", qformer, read=1, cls="first")


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
    # Vita-CLIP's code adds a patch bias of zeros to CLIP's weights.
    "vita_clip_b16": with_visual(_clip(16, 768, 12, 512, 512), patch_bias=True),
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
    **SIZES_OF_TODAY,
    "tiny_blip": BlipSpec(
        "captioner",
        # With CLIP's deviation, 0.1, training leaves left and right alike to all later layers.
        dataclasses.replace(_blip_vision(32, 8, 96, 4, 3), init_std=0.5),
        # Moving shapes have one token that starts a text, whatever the text is for.
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
        # All of the tiny CLIP: its last block, trained to match texts' words, tells what happens.
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
