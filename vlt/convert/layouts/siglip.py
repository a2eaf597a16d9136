"""SigLIP and SigLIP 2 of fixed resolutions, as their authors' .npz and as transformers saves them.

Zhai et al., arXiv:2303.15343; Tschannen et al., arXiv:2502.14786. The vision tower has no class
token and does not project what attention pools; the text tower has no mask and is read at its last
position.
"""

from pathlib import Path
from typing import Any

from vlt.convert.errors import ConversionError
from vlt.convert.files.json_files import read_json
from vlt.convert.layouts.clip import VIDEOS, hf_block, openai_attention
from vlt.convert.layouts.huggingface import (
    count,
    image_fields,
    load_config,
    text_fields,
    tower_fields,
    tower_json,
)
from vlt.convert.tables.family import Family, dense, flax_attention, flax_dense, flax_norm, norm
from vlt.convert.tables.table import CONV, FIRST_OF_2, FIRST_OF_3, SCALAR, Rule
from vlt.models.spec import DualEncoderSpec, PoolerSpec, TextSpec, VisionSpec

MODEL_TYPE = "siglip"
VISUAL: dict[str, Any] = {
    "norm_eps": 1e-6,
    "pre_norm": False,
    "patch_bias": True,
    "pool": "attention",
    "projection": False,
}
TEXT: dict[str, Any] = {
    "norm_eps": 1e-6,
    "causal": False,
    "readout": "last",
    "projection_bias": True,
}
_POOLER, _ATTENTION = "visual/pooler", "visual/pooler/cross_attention"
_COMMON: dict[str, Any] = {
    "activation": "gelu_tanh",
    "head_widths": {1152: 72, 1536: 96},  # So400m, g-opt
    "image_sizes": {(27, 14): 384},  # So400m/14: the last six rows and columns are not seen
    "model": "siglip",
    "visual": VISUAL,
    "text": TEXT,
    **VIDEOS,
}


def _hf_rules() -> tuple[Rule, ...]:
    vision, text, head = "vision_model.", "text_model.", "vision_model.head."
    tables = f"{vision}embeddings.", f"{text}embeddings."
    return (
        Rule(f"{tables[0]}patch_embedding.weight", ("visual/patch_embedding/kernel",), CONV),
        Rule(f"{tables[0]}patch_embedding.bias", ("visual/patch_embedding/bias",)),
        Rule(f"{tables[0]}position_embedding.weight", ("visual/position_embedding",)),
        *hf_block(f"{vision}encoder.layers.{{i}}", "visual/blocks_{i}"),
        *norm(f"{vision}post_layernorm", "visual/post_norm"),
        Rule(f"{head}probe", (f"{_POOLER}/probe",), FIRST_OF_3),
        *openai_attention(f"{head}attention", _ATTENTION),
        *norm(f"{head}layernorm", f"{_POOLER}/norm"),
        *dense(f"{head}mlp.fc1", f"{_POOLER}/mlp/fc1"),
        *dense(f"{head}mlp.fc2", f"{_POOLER}/mlp/fc2"),
        Rule(f"{tables[1]}token_embedding.weight", ("text/token_embedding/embedding",)),
        Rule(f"{tables[1]}position_embedding.weight", ("text/position_embedding",)),
        *hf_block(f"{text}encoder.layers.{{i}}", "text/blocks_{i}"),
        *norm(f"{text}final_layer_norm", "text/final_norm"),
        *dense(f"{text}head", "text/projection"),
        Rule("logit_scale", ("logit_scale",), SCALAR),
        Rule("logit_bias", ("logit_bias",), SCALAR),
    )


def _flax_mlp(source: str, target: str) -> list[Rule]:
    return [
        *flax_dense(f"{source}.Dense_0", f"{target}/fc1"),
        *flax_dense(f"{source}.Dense_1", f"{target}/fc2"),
    ]


def _flax_block(source: str, target: str) -> list[Rule]:
    return [
        *flax_norm(f"{source}.LayerNorm_0", f"{target}/norm1"),
        *flax_attention(f"{source}.MultiHeadDotProductAttention_0", f"{target}/attention"),
        *flax_norm(f"{source}.LayerNorm_1", f"{target}/norm2"),
        *_flax_mlp(f"{source}.MlpBlock_0", f"{target}/mlp"),
    ]


def _rules() -> tuple[Rule, ...]:
    head = "img.MAPHead_0"
    return (
        *flax_dense("img.embedding", "visual/patch_embedding"),
        Rule("img.pos_embedding", ("visual/position_embedding",), FIRST_OF_2),
        *_flax_block("img.Transformer.encoderblock_{i}", "visual/blocks_{i}"),
        *flax_norm("img.Transformer.encoder_norm", "visual/post_norm"),
        Rule(f"{head}.probe", (f"{_POOLER}/probe",), FIRST_OF_3),
        *flax_attention(f"{head}.MultiHeadDotProductAttention_0", _ATTENTION),
        *flax_norm(f"{head}.LayerNorm_0", f"{_POOLER}/norm"),
        *_flax_mlp(f"{head}.MlpBlock_0", f"{_POOLER}/mlp"),
        Rule("txt.Embed_0.embedding", ("text/token_embedding/embedding",)),
        Rule("txt.pos_embedding", ("text/position_embedding",), FIRST_OF_2),
        *_flax_block("txt.Encoder_0.encoderblock_{i}", "text/blocks_{i}"),
        *flax_norm("txt.Encoder_0.encoder_norm", "text/final_norm"),
        *flax_dense("txt.head", "text/projection"),
        Rule("t", ("logit_scale",), SCALAR),
        Rule("b", ("logit_bias",), SCALAR),
    )


SIGLIP_HF = Family(
    name="siglip_hf", sign=r"^vision_model\.head\.probe$", rules=_hf_rules(), **_COMMON
)

SIGLIP = Family(
    name="siglip",
    sign=r"^img\.MAPHead_0\.probe$",
    rules=_rules(),
    stacked=r"(?:img\.Transformer|txt\.Encoder_0)\.encoderblock",
    root="params",
    **_COMMON,
)


def siglip_spec(folder: Path) -> DualEncoderSpec:
    """The spec that a SigLIP's config.json gives.

    Raises ConversionError: not a SigLIP of a fixed resolution, or one without its pooling head.
    """
    path = folder / "config.json"
    if read_json(path).get("model_type") == "siglip2":
        raise ConversionError(
            f"{path}: model_type 'siglip2' is NaFlex, a model for pictures of any aspect that is "
            "not converted; SigLIP 2 of a fixed resolution has model_type 'siglip'"
        )
    config = load_config(path, MODEL_TYPE)
    visual, text = config.vision_config, config.text_config
    if not getattr(visual, "vision_use_head", True):
        raise ConversionError(f"{path}: vision_use_head is off, and nothing pools the patches")
    fields = tower_fields(path, visual)
    pooler = PoolerSpec(fields["heads"], fields["width"], fields["mlp_width"])
    vision_spec = VisionSpec(*image_fields(path, visual), **VISUAL | fields, pooler=pooler)
    text_spec = TextSpec(*text_fields(path, text), **TEXT | tower_fields(path, text))
    joint = count(path, text, "projection_size")
    if joint != vision_spec.width:
        raise ConversionError(
            f"{path}: text_config.projection_size is {joint}, but what is pooled of an image is "
            f"{vision_spec.width} wide"
        )
    return DualEncoderSpec(vision_spec, text_spec, joint, logit_bias=True)


def siglip_json(spec: DualEncoderSpec) -> dict[str, Any]:
    """The config.json of a transformers SiglipModel."""
    visual, text = (tower_json(tower, spec.embed_dim) for tower in (spec.visual, spec.text))
    for fields in (visual, text):
        del fields["projection_dim"]
    sides = {"image_size": spec.visual.image_size, "patch_size": spec.visual.patch_size}
    words = {"vocab_size": spec.text.vocab, "max_position_embeddings": spec.text.context}
    return {
        "architectures": ["SiglipModel"],
        "model_type": MODEL_TYPE,
        "vision_config": {"model_type": "siglip_vision_model"} | sides | visual,
        "text_config": {
            "model_type": "siglip_text_model",
            "projection_size": spec.embed_dim,
            **words,
            **text,
        },
    }
