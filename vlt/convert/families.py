"""The checkpoint families of CLIP, one table of names each, and the list of all families."""

import dataclasses
import re

from vlt.convert.blip import BLIP, BLIP_HF
from vlt.convert.errors import ConversionError
from vlt.convert.family import Family, dense, fused, norm
from vlt.convert.openai import openai_text, openai_vision
from vlt.convert.table import (
    CONV,
    FIRST_OF_2,
    FIRST_OF_3,
    LINEAR,
    MIDDLE_OF_4,
    SPLIT_LINEAR,
    Rule,
)
from vlt.convert.viclip import VICLIP

# Temperature of losses that were trained with a constant one: ln(1 / 0.01).
LOG_100 = 4.605170185988092


def _hf_attention(source: str, target: str) -> list[Rule]:
    names = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}
    return [r for s, t in names.items() for r in dense(f"{source}.{s}", f"{target}/{t}")]


def _hf_block(source: str, target: str) -> list[Rule]:
    return [
        *norm(f"{source}.layer_norm1", f"{target}/norm1"),
        *_hf_attention(f"{source}.self_attn", f"{target}/attention"),
        *norm(f"{source}.layer_norm2", f"{target}/norm2"),
        *dense(f"{source}.mlp.fc1", f"{target}/mlp/fc1"),
        *dense(f"{source}.mlp.fc2", f"{target}/mlp/fc2"),
    ]


def _hf_text(prefix: str) -> list[Rule]:
    model, embeddings = f"{prefix}text_model", f"{prefix}text_model.embeddings"
    return [
        Rule(f"{embeddings}.token_embedding.weight", ("text/token_embedding/embedding",)),
        Rule(f"{embeddings}.position_embedding.weight", ("text/position_embedding",)),
        *_hf_block(f"{model}.encoder.layers.{{i}}", "text/blocks_{i}"),
        *norm(f"{model}.final_layer_norm", "text/final_norm"),
        Rule(f"{prefix}text_projection.weight", ("text/projection/kernel",), LINEAR),
    ]


def _tempme_lora(source: str, target: str) -> list[Rule]:
    """One A for q, k and v."""
    return [
        Rule(f"{source}.TVPt_LoRA_a", (f"{target}/lora_a",), LINEAR),
        fused(f"{source}.TVPt_LoRA_b", target, "lora_b", SPLIT_LINEAR),
    ]


def _eva_attention(source: str, target: str) -> list[Rule]:
    """No bias of the keys."""
    return [
        Rule(f"{source}.q_bias", (f"{target}/query/bias",)),
        Rule(f"{source}.v_bias", (f"{target}/value/bias",)),
        fused(f"{source}.qkv.weight", target, "kernel", SPLIT_LINEAR),
        *dense(f"{source}.proj", f"{target}/out"),
    ]


def _eva_block(source: str, target: str) -> list[Rule]:
    return [
        *norm(f"{source}.norm1", f"{target}/norm1"),
        *_eva_attention(f"{source}.attn", f"{target}/attention"),
        *norm(f"{source}.norm2", f"{target}/norm2"),
        *dense(f"{source}.mlp.fc1", f"{target}/mlp/fc1"),
        *dense(f"{source}.mlp.fc2", f"{target}/mlp/fc2"),
    ]


_SCALE = Rule("logit_scale", ("logit_scale",))
_BRANCH = "visual/btadapter"

CLIP_HF = Family(
    name="clip_hf",
    about="CLIP as transformers saves it",
    # In config.json; a bare weight file does not tell.
    activation=None,
    rules=(
        Rule("vision_model.embeddings.class_embedding", ("visual/class_embedding",)),
        Rule(
            "vision_model.embeddings.patch_embedding.weight",
            ("visual/patch_embedding/kernel",),
            CONV,
        ),
        Rule("vision_model.embeddings.position_embedding.weight", ("visual/position_embedding",)),
        *norm("vision_model.pre_layrnorm", "visual/pre_norm"),
        *_hf_block("vision_model.encoder.layers.{i}", "visual/blocks_{i}"),
        *norm("vision_model.post_layernorm", "visual/post_norm"),
        Rule("visual_projection.weight", ("visual/projection/kernel",), LINEAR),
        *_hf_text(""),
        _SCALE,
    ),
)

_OPENAI = Family(
    name="openai",
    about="CLIP as OpenAI published it",
    renames=((r"^(module|clip)\.", ""),),
    dropped=r"input_resolution|context_length|vocab_size|attn_mask",
    rules=(
        *openai_vision("visual.", CONV),
        *openai_text(""),
        _SCALE,
    ),
)

_OPEN_CLIP = dataclasses.replace(
    _OPENAI, name="open_clip", about="the same names; activation unknown", activation=None
)

_TEMPME_RULES = (
    *_OPENAI.rules,
    *_tempme_lora("visual.transformer.resblocks.{i}.attn", "visual/blocks_{i}/attention"),
    *_tempme_lora("transformer.resblocks.{i}.attn", "text/blocks_{i}/attention"),
    Rule(
        "visual.transformer.resblocks.{i}.TVPt_Video_Positional_embedding",
        ("visual/blocks_{i}/clip_position",),
        MIDDLE_OF_4,
    ),
)

_TEMPME = Family(
    name="tempme",
    about="TempMe or its LoRA baseline over CLIP",
    renames=((r"^module\.", ""), (r"^(?!clip\.)", "clip.")),
    dropped=rf"clip\.({_OPENAI.dropped})",
    frame_norm=True,
    options={"lora": {"scale": 1.0}},
    rules=tuple(dataclasses.replace(rule, source=f"clip.{rule.source}") for rule in _TEMPME_RULES),
)

_BTADAPTER = Family(
    name="btadapter",
    about="BT-Adapter over CLIP, pre-trained or fine-tuned",
    renames=(
        (r"^model\.vision_tower\.", "backbone."),
        (r"^(?!backbone\.|text_backbone\.|extra_proj\.|logit_scale$)", "backbone."),
        (r"timesFPN", "btadapter"),
    ),
    constants={"logit_scale": LOG_100},
    adapter=r"backbone\.(btadapter_.*|balance[12])|extra_proj\..*",
    rules=(
        Rule("backbone.class_embedding", ("visual/class_embedding",)),
        Rule("backbone.patch_embedding.weight", ("visual/patch_embedding/kernel",), CONV),
        Rule("backbone.position_embedding.weight", ("visual/position_embedding",)),
        *norm("backbone.pre_layrnorm", "visual/pre_norm"),
        *_hf_block("backbone.layers.{i}", "visual/blocks_{i}"),
        *norm("backbone.post_layernorm", "visual/post_norm"),
        Rule("backbone.visual_projection.weight", ("visual/projection/kernel",), LINEAR),
        Rule("backbone.balance1", (f"{_BRANCH}/final_gate",)),
        Rule("backbone.balance2", (f"{_BRANCH}/layer_gate",)),
        Rule("backbone.btadapter_cls_token", (f"{_BRANCH}/class_token",), FIRST_OF_3),
        Rule("backbone.btadapter_time_embed.weight", (f"{_BRANCH}/time_embedding",)),
        *_hf_block("backbone.btadapter_S_layers.{i}", f"{_BRANCH}/spatial_{{i}}"),
        *norm("backbone.btadapter_T_layers.{i}.layer_norm1", f"{_BRANCH}/temporal_{{i}}/norm"),
        *_hf_attention(
            "backbone.btadapter_T_layers.{i}.self_attn", f"{_BRANCH}/temporal_{{i}}/attention"
        ),
        *dense(
            "backbone.btadapter_T_layers.{i}.temporal_fc", f"{_BRANCH}/temporal_{{i}}/projection"
        ),
        *dense("extra_proj.0", f"{_BRANCH}/alignment/linear"),
        *norm("extra_proj.1", f"{_BRANCH}/alignment/norm"),
        *_hf_text("text_backbone."),
    ),
)

_BTADAPTER_EVA = Family(
    name="btadapter_eva",
    about="BT-Adapter over EVA-CLIP-G, or that checkpoint's towers alone",
    renames=(
        (r"^(model\.vision_tower\.|visual\.|(?=btadapter_))", "backbone."),
        (r"^text\.", "text_backbone."),
        (r"timesFPN", "btadapter"),
    ),
    dropped=r"(.*\.)?attn_mask",
    constants={"logit_scale": LOG_100},
    activation="gelu",
    head_width=88,
    model="eva_clip",
    visual={
        "norm_eps": 1e-6,
        "pre_norm": False,
        "patch_bias": True,
        "key_bias": False,
        "projection_bias": True,
    },
    adapter=r"backbone\.btadapter_.*",
    rules=(
        Rule("backbone.cls_token", ("visual/class_embedding",), FIRST_OF_3),
        Rule("backbone.patch_embed.proj.weight", ("visual/patch_embedding/kernel",), CONV),
        Rule("backbone.patch_embed.proj.bias", ("visual/patch_embedding/bias",)),
        Rule("backbone.pos_embed", ("visual/position_embedding",), FIRST_OF_2),
        *_eva_block("backbone.blocks.{i}", "visual/blocks_{i}"),
        *norm("backbone.norm", "visual/post_norm"),
        *dense("backbone.head", "visual/projection"),
        Rule("backbone.btadapter_cls", (f"{_BRANCH}/class_token",), FIRST_OF_3),
        Rule("backbone.btadapter_position.weight", (f"{_BRANCH}/time_embedding",)),
        *_eva_block("backbone.btadapter_S.{i}", f"{_BRANCH}/spatial_{{i}}"),
        *norm("backbone.btadapter_T.{i}.norm1", f"{_BRANCH}/temporal_{{i}}/norm"),
        *_eva_attention("backbone.btadapter_T.{i}.attn", f"{_BRANCH}/temporal_{{i}}/attention"),
        *dense("backbone.btadapter_T.{i}.temporal_fc", f"{_BRANCH}/temporal_{{i}}/projection"),
        *openai_text("text_backbone."),
        _SCALE,
    ),
)

FAMILIES = {
    family.name: family
    for family in (
        CLIP_HF,
        _OPENAI,
        _OPEN_CLIP,
        _TEMPME,
        _BTADAPTER,
        _BTADAPTER_EVA,
        BLIP,
        BLIP_HF,
        VICLIP,
    )
}

# Names that give a family away, in the order they are looked for.
_SIGNS = (
    (r"^(module\.)?visual_encoder\.", "blip"),
    (r"^(module\.)?vision_encoder\.(conv1|transformer)\.", "viclip"),
    (r"^text_(decoder\.bert|encoder)\.encoder\.layer\.", "blip_hf"),
    (r"\.TVPt_", "tempme"),
    (r"(^|\.)(btadapter_[ST]\.|patch_embed\.proj\.)", "btadapter_eva"),
    (r"btadapter|timesFPN|^backbone\.class_embedding", "btadapter"),
    (r"^vision_model\.embeddings\.", "clip_hf"),
    (r"^input_resolution$", "openai"),
    (r"^((module|clip)\.)?visual\.conv1\.weight$", "open_clip"),
)


def family_of(names: list[str], path: object) -> Family:
    """The family whose signs the tensor names bear, or ConversionError."""
    for pattern, family in _SIGNS:
        if any(re.search(pattern, name) for name in names):
            return FAMILIES[family]
    raise ConversionError(
        f"{path}: no known family has names like {', '.join(names[:5])}; families are "
        f"{', '.join(FAMILIES)} (choose with --family)"
    )


def get_family(name: str) -> Family:
    """A family by name, or ConversionError that lists them."""
    if name not in FAMILIES:
        raise ConversionError(f"--family={name}: unknown; one of {', '.join(FAMILIES)}")
    return FAMILIES[name]
