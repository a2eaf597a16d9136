"""ActionCLIP's layout: OpenAI's names, and a head over frames in another entry of the file."""

import dataclasses

from vlt.convert.layouts.clip import SCALE, openai_text, openai_vision
from vlt.convert.tables.family import Family, dense, fused, norm
from vlt.convert.tables.table import CONV, FIRST_OF_2, LINEAR, SPLIT, SPLIT_LINEAR, Rule, Transform
from vlt.model_io.view import View

_MODEL, _FUSION, _HEAD = "model_state_dict", "fusion_model_state_dict.", "visual/actionclip"
_TOKEN = Transform(
    "drop 2 unit axes", 3, lambda x: [x.squeeze(axis=(0, 1))], lambda parts: parts[0][None, None]
)
_DEPTHWISE = Transform(
    "drop a unit axis, transpose",
    3,
    lambda x: [x.squeeze(axis=1).T],
    lambda parts: parts[0].T[:, None],
)


def _layer(source: str, target: str, names: dict[str, str]) -> list[Rule]:
    """A layer with torch's attention. names: published names of `attention`, `norm1`, `norm2`."""
    attention = f"{target}/attention"
    inside = f"{source}.{names['attention']}"
    return [
        fused(f"{inside}.in_proj_weight", attention, "kernel", SPLIT_LINEAR),
        fused(f"{inside}.in_proj_bias", attention, "bias", SPLIT),
        *dense(f"{inside}.out_proj", f"{attention}/out"),
        *(r for n in ("norm1", "norm2") for r in norm(f"{source}.{names[n]}", f"{target}/{n}")),
    ]


def _heads() -> list[Rule]:
    block, resblock = f"{_HEAD}/blocks_{{i}}", f"{_FUSION}transformer.resblocks.{{i}}"
    own, layer = f"{_HEAD}/layers_{{i}}", f"{_FUSION}transformer.transformer_enc.layers.{{i}}"
    lstm = f"{_FUSION}lstm_visual"
    return [
        Rule(f"{_FUSION}frame_position_embeddings.weight", (f"{_HEAD}/position_embedding",)),
        *_layer(resblock, block, {"attention": "attn", "norm1": "ln_1", "norm2": "ln_2"}),
        *dense(f"{resblock}.mlp.c_fc", f"{block}/mlp/fc1"),
        *dense(f"{resblock}.mlp.c_proj", f"{block}/mlp/fc2"),
        Rule(f"{lstm}.weight_ih_l0", (f"{_HEAD}/input/kernel",), LINEAR),
        Rule(f"{lstm}.weight_hh_l0", (f"{_HEAD}/state_kernel",), LINEAR),
        Rule(f"{lstm}.bias_ih_l0", (f"{_HEAD}/input/bias",)),
        Rule(f"{lstm}.bias_hh_l0", (f"{_HEAD}/state_bias",)),
        Rule(f"{_FUSION}shift.weight", (f"{_HEAD}/kernel",), _DEPTHWISE),
        Rule(f"{_FUSION}transformer.cls_token", (f"{_HEAD}/class_embedding",), _TOKEN),
        Rule(f"{_FUSION}transformer.pos_embed", (f"{_HEAD}/class_position_embedding",), FIRST_OF_2),
        *_layer(layer, own, {"attention": "self_attn", "norm1": "norm1", "norm2": "norm2"}),
        *dense(f"{layer}.linear1", f"{own}/fc1"),
        *dense(f"{layer}.linear2", f"{own}/fc2"),
        *norm(f"{_FUSION}transformer.transformer_enc.norm", f"{_HEAD}/final_norm"),
    ]


def _towers(block: str) -> list[Rule]:
    """Both towers and the scale. block: published name of a vision block, with `{i}` in it."""
    rules = (*openai_vision("visual.", CONV), *openai_text(""), SCALE)
    inside = "visual.transformer.resblocks.{i}"
    named = [(rule, rule.source.replace(inside, block)) for rule in rules]
    return [dataclasses.replace(rule, source=f"{_MODEL}.{name}") for rule, name in named]


ACTIONCLIP = Family(
    name="actionclip",
    sign=r"^fusion_model_state_dict\.",
    renames=(
        (r"^((fusion_)?model_state_dict)\.module\.", r"\1."),
        # A model with mean pooling is saved without a second entry.
        (r"^(?!(fusion_)?model_state_dict\.)", f"{_MODEL}."),
    ),
    dropped=r"model_state_dict\.(input_resolution|context_length|vocab_size)",
    superseded={
        f"{_HEAD}/position_embedding": rf"{_HEAD}/(input/kernel|kernel|class_embedding)",
    },
    options={"actionclip": {"shift": False}},
    view=View("segment_centre", 8),
    rules=(*_towers("visual.transformer.resblocks.{i}"), *_heads()),
)

ACTIONCLIP_SHIFT = dataclasses.replace(
    ACTIONCLIP,
    name="actionclip_shift",
    sign=r"(^|\.)visual\.transformer\.resblocks\.\d+\.net\.",
    options={"actionclip": {"shift": True}},
    methods={"actionclip": {"sim_header": "meanP", "shift": True}},
    rules=(*_towers("visual.transformer.resblocks.{i}.net"), *_heads()),
)
