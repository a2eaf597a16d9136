"""CLIP as OpenAI published it, with names that others build on, and as transformers saves it."""

import dataclasses
from typing import Any

from vlt.convert.tables.family import Family, dense, fused, norm
from vlt.convert.tables.table import CONV, KEEP, LINEAR, SPLIT, SPLIT_LINEAR, Rule, Transform
from vlt.model_io.view import View

SCALE = Rule("logit_scale", ("logit_scale",))
# A CLIP sees images; on videos it is evaluated like CLIP4Clip's mean pooling (Luo et al.,
# arXiv:2104.08860, Section 3.3) on MSR-VTT: 12 frames, the mean of their unit vectors.
VIDEOS: dict[str, Any] = {"frame_norm": True, "view": View("segment_middle", 12)}


def openai_vision(prefix: str, patch: Transform) -> list[Rule]:
    """The vision tower. patch: transform of the patch embedding's kernel."""
    return [
        Rule(f"{prefix}class_embedding", ("visual/class_embedding",)),
        Rule(f"{prefix}conv1.weight", ("visual/patch_embedding/kernel",), patch),
        Rule(f"{prefix}positional_embedding", ("visual/position_embedding",)),
        *norm(f"{prefix}ln_pre", "visual/pre_norm"),
        *openai_block(f"{prefix}transformer.resblocks.{{i}}", "visual/blocks_{i}"),
        *norm(f"{prefix}ln_post", "visual/post_norm"),
        Rule(f"{prefix}proj", ("visual/projection/kernel",), KEEP),
    ]


def openai_text(prefix: str) -> list[Rule]:
    """The text tower."""
    return [
        Rule(f"{prefix}token_embedding.weight", ("text/token_embedding/embedding",)),
        Rule(f"{prefix}positional_embedding", ("text/position_embedding",)),
        *openai_block(f"{prefix}transformer.resblocks.{{i}}", "text/blocks_{i}"),
        *norm(f"{prefix}ln_final", "text/final_norm"),
        Rule(f"{prefix}text_projection", ("text/projection/kernel",), KEEP),
    ]


def openai_attention(source: str, target: str) -> list[Rule]:
    """Torch's attention layer."""
    return [
        fused(f"{source}.in_proj_weight", target, "kernel", SPLIT_LINEAR),
        fused(f"{source}.in_proj_bias", target, "bias", SPLIT),
        *dense(f"{source}.out_proj", f"{target}/out"),
    ]


def openai_block(source: str, target: str) -> list[Rule]:
    """A block of OpenAI's CLIP."""
    return [
        *norm(f"{source}.ln_1", f"{target}/norm1"),
        *openai_attention(f"{source}.attn", f"{target}/attention"),
        *norm(f"{source}.ln_2", f"{target}/norm2"),
        *dense(f"{source}.mlp.c_fc", f"{target}/mlp/fc1"),
        *dense(f"{source}.mlp.c_proj", f"{target}/mlp/fc2"),
    ]


def hf_attention(source: str, target: str, out: str = "out_proj") -> list[Rule]:
    """An attention layer of transformers' CLIP. out: name of its output layer, which varies."""
    names = {"q_proj": "query", "k_proj": "key", "v_proj": "value", out: "out"}
    return [r for s, t in names.items() for r in dense(f"{source}.{s}", f"{target}/{t}")]


def hf_block(source: str, target: str) -> list[Rule]:
    """A block of transformers' CLIP."""
    return [
        *norm(f"{source}.layer_norm1", f"{target}/norm1"),
        *hf_attention(f"{source}.self_attn", f"{target}/attention"),
        *norm(f"{source}.layer_norm2", f"{target}/norm2"),
        *dense(f"{source}.mlp.fc1", f"{target}/mlp/fc1"),
        *dense(f"{source}.mlp.fc2", f"{target}/mlp/fc2"),
    ]


def hf_text(prefix: str) -> list[Rule]:
    """The text tower of transformers' CLIP."""
    model, embeddings = f"{prefix}text_model", f"{prefix}text_model.embeddings"
    return [
        Rule(f"{embeddings}.token_embedding.weight", ("text/token_embedding/embedding",)),
        Rule(f"{embeddings}.position_embedding.weight", ("text/position_embedding",)),
        *hf_block(f"{model}.encoder.layers.{{i}}", "text/blocks_{i}"),
        *norm(f"{model}.final_layer_norm", "text/final_norm"),
        Rule(f"{prefix}text_projection.weight", ("text/projection/kernel",), LINEAR),
    ]


def hf_vision(prefix: str) -> list[Rule]:
    """The vision tower of transformers' CLIP, without the projection."""
    embeddings = f"{prefix}embeddings"
    return [
        Rule(f"{embeddings}.class_embedding", ("visual/class_embedding",)),
        Rule(f"{embeddings}.patch_embedding.weight", ("visual/patch_embedding/kernel",), CONV),
        Rule(f"{embeddings}.position_embedding.weight", ("visual/position_embedding",)),
        *norm(f"{prefix}pre_layrnorm", "visual/pre_norm"),
        *hf_block(f"{prefix}encoder.layers.{{i}}", "visual/blocks_{i}"),
        *norm(f"{prefix}post_layernorm", "visual/post_norm"),
    ]


CLIP_HF = Family(
    name="clip_hf",
    sign=r"^vision_model\.embeddings\.|^embeddings\.class_embedding$",
    # transformers 5 saves a vision tower alone without the first word.
    renames=((r"^(?=(embeddings|encoder|pre_layrnorm|post_layernorm)\.)", "vision_model."),),
    # Stated in config.json; a bare weight file does not tell.
    activation=None,
    **VIDEOS,
    rules=(
        *hf_vision("vision_model."),
        Rule("visual_projection.weight", ("visual/projection/kernel",), LINEAR),
        *hf_text(""),
        SCALE,
    ),
)

OPENAI = Family(
    name="openai",
    sign=r"^input_resolution$",
    renames=((r"^(module|clip)\.", ""),),
    dropped=r"input_resolution|context_length|vocab_size|attn_mask",
    **VIDEOS,
    rules=(
        *openai_vision("visual.", CONV),
        *openai_text(""),
        SCALE,
    ),
)

OPEN_CLIP = dataclasses.replace(
    OPENAI,
    name="open_clip",
    activation=None,
    sign=r"^((module|clip)\.)?visual\.conv1\.weight$",
)
