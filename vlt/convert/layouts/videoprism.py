"""VideoPrism's video-text models (LvT) and video encoders, as .npz and as transformers saves them.

Zhao et al., arXiv:2402.13217. Blocks attend within frames, then along time at each place; in LvT
then over all patches, which attention pools. LayerNorm scales are published minus one.
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from vlt.convert.errors import ConversionError
from vlt.convert.files.arrays import Tensors
from vlt.convert.layouts.clip import hf_attention
from vlt.convert.layouts.viclip import TUBELET
from vlt.convert.tables.family import Family, dense, flax_attention, flax_dense
from vlt.convert.tables.table import (
    FIRST_OF_1,
    FIRST_OF_2,
    FIRST_OF_3,
    HEADS_FIRST,
    Rule,
    Transform,
)
from vlt.model_io.view import View
from vlt.models.spec import EncoderSpec

MODEL_TYPE = "videoprism"
CAP = 50.0  # of attention logits
CONTEXT = 64  # words of a text, not counting the class token
SCALE = 100.0  # of cosines; no checkpoint holds the temperature it was trained with
VISUAL: dict[str, Any] = {
    "activation": "gelu",
    "norm_eps": 1e-6,
    "pre_norm": False,
    "patch_bias": True,
    "pool": "attention",
    "projection": False,
    "logit_cap": CAP,
}
TEXT: dict[str, Any] = {
    "context": CONTEXT,
    "norm_eps": 1e-6,
    "mask_padding": True,
    "readout": "last",
    "projection": False,
    "positions": "sinusoid",
    "embedding_scale": True,
    "class_token": True,
    "logit_cap": CAP,
}
_PIXELS: dict[str, Any] = {"mean": [0.0] * 3, "std": [1.0] * 3, "crop": "none"}  # from 0 to 1
_POOLER, _ATTENTION = "visual/pooler", "visual/pooler/cross_attention"
_GIANT = 1408  # width of VideoPrism g


def _patches(kernel: np.ndarray) -> list[np.ndarray]:
    side = round((len(kernel) / 3) ** 0.5)
    if 3 * side**2 != len(kernel):
        raise ValueError("its rows must be the pixels of a square of three colours")
    return [kernel.reshape(side, side, 3, -1)]


# The rows of the kernel run over the rows, columns and colours of a patch.
_LINEAR_PATCHES = Transform(
    "rows -> HWI", 2, _patches, lambda parts: parts[0].reshape(-1, parts[0].shape[-1])
)
# A round trip is within 6e-8, not bit for bit: float32 is coarser at 1 than below.
_LESS_ONE = Transform(
    "+ 1", 1, lambda x: [np.asarray(x, np.float32) + 1], lambda parts: parts[0] - 1
)


def _norm(source: str, target: str, scale: str) -> list[Rule]:
    """A LayerNorm whose scale is published minus one, under the name `scale`."""
    return [
        Rule(f"{source}.{scale}", (f"{target}/scale",), _LESS_ONE),
        Rule(f"{source}.bias", (f"{target}/bias",)),
    ]


def _attention(source: str, target: str) -> list[Rule]:
    return flax_attention(source, target, ("w", "b"), "post", HEADS_FIRST)


def _flax_block(source: str, target: str) -> list[Rule]:
    return [
        *_norm(f"{source}.layer_norm", f"{target}/norm1", "scale"),
        *_attention(f"{source}.self_attention", f"{target}/attention"),
        *_norm(f"{source}.ff_layer.layer_norm", f"{target}/norm2", "scale"),
        *flax_dense(f"{source}.ff_layer.ffn_layer1.linear", f"{target}/mlp/fc1"),
        *flax_dense(f"{source}.ff_layer.ffn_layer2.linear", f"{target}/mlp/fc2"),
    ]


def _hf_block(source: str, target: str) -> list[Rule]:
    return [
        *_norm(f"{source}.layernorm_before", f"{target}/norm1", "weight"),
        *hf_attention(f"{source}.attention", f"{target}/attention", "o_proj"),
        *_norm(f"{source}.layernorm_after", f"{target}/norm2", "weight"),
        *dense(f"{source}.mlp.fc1", f"{target}/mlp/fc1"),
        *dense(f"{source}.mlp.fc2", f"{target}/mlp/fc2"),
    ]


def _blocks(
    stages: tuple[str, ...], block: Callable[[str, str], list[Rule]], tower: str
) -> list[Rule]:
    return [rule for stage in stages for rule in block(f"{stage}{{i}}", f"{tower}/blocks_{{i}}")]


def _encoder(prefix: str) -> list[Rule]:
    """The video encoder's patch embedding, tables of positions and LayerNorms."""
    return [
        Rule(
            f"{prefix}patch_projection.linear.kernel",
            ("visual/patch_embedding/kernel",),
            _LINEAR_PATCHES,
        ),
        Rule(f"{prefix}patch_projection.linear.bias", ("visual/patch_embedding/bias",)),
        Rule(f"{prefix}spatial_pos_emb.emb_var", ("visual/position_embedding",)),
        Rule(f"{prefix}temporal_pos_emb.emb_var", ("visual/temporal_embedding",)),
        *_norm(f"{prefix}spatial_ln", "visual/spatial_norm", "scale"),
        *_norm(f"{prefix}temporal_ln", "visual/temporal_norm", "scale"),
    ]


def _hf_encoder(prefix: str) -> list[Rule]:
    patches, table = "patch_embeddings.projection", "position_embeddings"
    spatial, temporal = f"{prefix}spatial_embeddings", f"{prefix}temporal_embeddings"
    return [
        Rule(f"{spatial}.{patches}.weight", ("visual/patch_embedding/kernel",), TUBELET),
        Rule(f"{spatial}.{patches}.bias", ("visual/patch_embedding/bias",)),
        Rule(f"{spatial}.{table}", ("visual/position_embedding",), FIRST_OF_2),
        Rule(f"{temporal}.{table}", ("visual/temporal_embedding",), FIRST_OF_2),
        *_norm(f"{prefix}layernorm1", "visual/spatial_norm", "weight"),
        *_norm(f"{prefix}layernorm2", "visual/temporal_norm", "weight"),
    ]


def _stacks(*stages: str) -> str:
    """The regex in `Family.stacked` for the stages' blocks."""
    return "|".join(re.escape(stage.removesuffix("_")) for stage in stages)


_HEAD, _HF_HEAD = "contrastive_vision_pooler", "video_model.head"
_STAGES = (
    "vision_encoder.spatial_encoder.transformers_stack.x_layers_",
    "vision_encoder.temporal_encoder.transformers_stack.x_layers_",
    "auxiliary_encoder.transformers_stack.x_layers_",
)
_HF_STAGES = (
    "video_model.vision_model.spatial_layers.",
    "video_model.vision_model.temporal_layers.",
    "video_model.auxiliary_layers.",
)
_TEXT_STAGE, _HF_TEXT_STAGE = "text_encoder.unimodal_transformer.x_layers_", "text_model.layers."
_COMMON: dict[str, Any] = {
    "activation": "relu",
    "model": MODEL_TYPE,
    "visual": VISUAL,
    "text": TEXT,
    "fixed_scale": SCALE,
    "view": View("linspace_open", 16),
}

VIDEOPRISM = Family(
    name="videoprism",
    sign=r"^contrastive_vision_pooler\.pooling_attention_query$",
    rules=(
        *_encoder("vision_encoder."),
        *_blocks(_STAGES, _flax_block, "visual"),
        Rule(f"{_HEAD}.pooling_attention_query", (f"{_POOLER}/probe",), FIRST_OF_1),
        *_attention(f"{_HEAD}.pooling_attention", _ATTENTION),
        Rule(
            f"{_HEAD}.pooling_attention.per_dim_scale.per_dim_scale",
            (f"{_ATTENTION}/channel_scale",),
        ),
        *_norm(f"{_HEAD}.pooling_attention_layer_norm", f"{_POOLER}/norm", "scale"),
        Rule("text_encoder.token_emb.emb_var", ("text/token_embedding/embedding",)),
        Rule("text_encoder.cls_emb", ("text/class_embedding",), FIRST_OF_3),
        *_blocks((_TEXT_STAGE,), _flax_block, "text"),
        *_norm("text_encoder.unimodal_ln", "text/final_norm", "scale"),
    ),
    stages=_STAGES,
    stacked=_stacks(*_STAGES, _TEXT_STAGE),
    root="params",
    pixels=_PIXELS | {"resize": "lanczos"},
    **_COMMON,
)

VIDEOPRISM_HF = Family(
    name="videoprism_hf",
    sign=r"^text_model\.embeddings\.cls_emb$",
    # transformers' table of positions is not the one that the text tower was trained with.
    dropped=r"text_model\.embeddings\.position_(ids|embedding)",
    rules=(
        *_hf_encoder("video_model.vision_model."),
        *_blocks(_HF_STAGES, _hf_block, "visual"),
        Rule(f"{_HF_HEAD}.pooling_attention_query", (f"{_POOLER}/probe",), FIRST_OF_3),
        *hf_attention(_HF_HEAD, _ATTENTION, "o_proj"),
        Rule(f"{_HF_HEAD}.per_dim_scale", (f"{_ATTENTION}/channel_scale",)),
        *_norm("video_model.head_layernorm", f"{_POOLER}/norm", "weight"),
        Rule("text_model.embeddings.token_embedding.weight", ("text/token_embedding/embedding",)),
        Rule("text_model.embeddings.cls_emb", ("text/class_embedding",), FIRST_OF_3),
        *_blocks((_HF_TEXT_STAGE,), _hf_block, "text"),
        *_norm("text_model.layernorm", "text/final_norm", "weight"),
    ),
    stages=_HF_STAGES,
    pixels=_PIXELS | {"resize": "bicubic"},
    **_COMMON,
)

_TOWER: dict[str, Any] = {
    "activation": "gelu",
    "model": MODEL_TYPE,
    "kind": EncoderSpec.kind,
    "visual": VISUAL | {"pool": "mean"},
    "view": View("linspace_open", 16),
}
_ALONE = tuple(stage.removeprefix("vision_encoder.") for stage in _STAGES[:2])
_HF_ALONE = tuple(stage.removeprefix("video_model.vision_model.") for stage in _HF_STAGES[:2])

VIDEOPRISM_ENCODER = Family(
    name="videoprism_encoder",
    sign=r"^temporal_pos_emb\.emb_var$",
    rules=(*_encoder(""), *_blocks(_ALONE, _flax_block, "visual")),
    stages=_ALONE,
    stacked=_stacks(*_ALONE),
    root="params",
    pixels=_PIXELS | {"resize": "lanczos"},
    **_TOWER,
)

VIDEOPRISM_ENCODER_HF = Family(
    name="videoprism_encoder_hf",
    sign=r"^spatial_embeddings\.patch_embeddings\.projection\.weight$",
    rules=(*_hf_encoder(""), *_blocks(_HF_ALONE, _hf_block, "visual")),
    stages=_HF_ALONE,
    pixels=_PIXELS | {"resize": "bicubic"},
    **_TOWER,
)


def refuse_giant(tensors: Tensors, path: object) -> None:
    """Raises ConversionError for VideoPrism g's video-text model, whose text tower differs."""
    for name, tensor in tensors.items():
        word = re.search(r"cls_emb$", name) and np.shape(tensor)[-1:] == (_GIANT,)
        if word or re.search(r"^text_encoder\..*\.(pre|post)_layer_norm\.", name):
            raise ConversionError(
                f"{path}: {name} is of VideoPrism g, whose text tower has norms before and after "
                "each layer (primer_hybrid), which is not published and not converted; B and L are"
            )
