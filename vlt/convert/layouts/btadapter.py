"""BT-Adapter over CLIP and over EVA-CLIP-G, and STAN, as their authors saved them."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from vlt.convert.errors import ConversionError
from vlt.convert.files.arrays import Tensors
from vlt.convert.layouts.clip import SCALE, hf_attention, hf_block, hf_text, openai_text
from vlt.convert.tables.family import Family, dense, fused, norm
from vlt.convert.tables.table import (
    CONV,
    FIRST_OF_2,
    FIRST_OF_3,
    LINEAR,
    SPLIT_LINEAR,
    Rule,
    Transform,
)
from vlt.model_io.view import View

# Logit scale of models that were trained with a constant temperature: ln(1 / 0.01).
LOG_100 = 4.605170185988092
VIEW = View("segment_middle", 12)  # for MSR-VTT (section 4.1)
_BRANCH = "visual/btadapter"
_ENORMOUS = 1792  # width of EVA02-CLIP-E's vision tower
_CONV_OVER_TIME = Transform(
    "OITHW -> THWIO",
    5,
    lambda x: [x.transpose(2, 3, 4, 1, 0)],
    lambda parts: parts[0].transpose(4, 3, 0, 1, 2),
)


def _eva_attention(source: str, target: str) -> list[Rule]:
    """EVA's attention, whose keys have no bias."""
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


def clip_tower(prefix: str) -> list[Rule]:
    """CLIP's vision tower, without its projection."""
    return [
        Rule(f"{prefix}class_embedding", ("visual/class_embedding",)),
        Rule(f"{prefix}patch_embedding.weight", ("visual/patch_embedding/kernel",), CONV),
        Rule(f"{prefix}position_embedding.weight", ("visual/position_embedding",)),
        *norm(f"{prefix}pre_layrnorm", "visual/pre_norm"),
        *hf_block(f"{prefix}layers.{{i}}", "visual/blocks_{i}"),
        *norm(f"{prefix}post_layernorm", "visual/post_norm"),
    ]


def clip_branch(prefix: str) -> list[Rule]:
    """The branch beside CLIP's vision tower."""
    return [
        Rule(f"{prefix}balance1", (f"{_BRANCH}/final_gate",)),
        Rule(f"{prefix}balance2", (f"{_BRANCH}/layer_gate",)),
        Rule(f"{prefix}btadapter_cls_token", (f"{_BRANCH}/class_token",), FIRST_OF_3),
        *_branch_layers(f"{prefix}btadapter"),
    ]


def _branch_layers(prefix: str) -> list[Rule]:
    """The branch's layers, and its time embedding."""
    temporal, target = f"{prefix}_T_layers.{{i}}", f"{_BRANCH}/temporal_{{i}}"
    return [
        Rule(f"{prefix}_time_embed.weight", (f"{_BRANCH}/time_embedding",)),
        *hf_block(f"{prefix}_S_layers.{{i}}", f"{_BRANCH}/spatial_{{i}}"),
        *norm(f"{temporal}.layer_norm1", f"{target}/norm"),
        *hf_attention(f"{temporal}.self_attn", f"{target}/attention"),
        *dense(f"{temporal}.temporal_fc", f"{target}/projection"),
    ]


def eva_tower(prefix: str, block: Callable[[str, str], list[Rule]] = _eva_block) -> list[Rule]:
    """EVA-CLIP's vision tower, without what follows its blocks. block: makes the rules of one."""
    return [
        Rule(f"{prefix}cls_token", ("visual/class_embedding",), FIRST_OF_3),
        Rule(f"{prefix}patch_embed.proj.weight", ("visual/patch_embedding/kernel",), CONV),
        Rule(f"{prefix}patch_embed.proj.bias", ("visual/patch_embedding/bias",)),
        Rule(f"{prefix}pos_embed", ("visual/position_embedding",), FIRST_OF_2),
        *block(f"{prefix}blocks.{{i}}", "visual/blocks_{i}"),
    ]


def eva_branch(prefix: str) -> list[Rule]:
    """The branch beside EVA-CLIP's vision tower."""
    temporal, target = f"{prefix}btadapter_T.{{i}}", f"{_BRANCH}/temporal_{{i}}"
    return [
        Rule(f"{prefix}btadapter_cls", (f"{_BRANCH}/class_token",), FIRST_OF_3),
        Rule(f"{prefix}btadapter_position.weight", (f"{_BRANCH}/time_embedding",)),
        *_eva_block(f"{prefix}btadapter_S.{{i}}", f"{_BRANCH}/spatial_{{i}}"),
        *norm(f"{temporal}.norm1", f"{target}/norm"),
        *_eva_attention(f"{temporal}.attn", f"{target}/attention"),
        *dense(f"{temporal}.temporal_fc", f"{target}/projection"),
    ]


EVA_VISION: dict[str, Any] = {
    "norm_eps": 1e-6,
    "pre_norm": False,
    "patch_bias": True,
    "key_bias": False,
    "projection_bias": True,
}

BTADAPTER = Family(
    name="btadapter",
    sign=r"btadapter|timesFPN|^backbone\.class_embedding",
    renames=(
        (r"^model\.vision_tower\.", "backbone."),
        (r"^(?!backbone\.|text_backbone\.|extra_proj\.|logit_scale$)", "backbone."),
        (r"timesFPN", "btadapter"),
    ),
    constants={"logit_scale": LOG_100},
    view=VIEW,
    adapter=r"backbone\.(btadapter_.*|balance[12])|extra_proj\..*",
    rules=(
        *clip_tower("backbone."),
        Rule("backbone.visual_projection.weight", ("visual/projection/kernel",), LINEAR),
        *clip_branch("backbone."),
        *dense("extra_proj.0", f"{_BRANCH}/alignment/linear"),
        *norm("extra_proj.1", f"{_BRANCH}/alignment/norm"),
        *hf_text("text_backbone."),
    ),
)

STAN = Family(
    name="stan",
    sign=r"(^|\.)STAN_(S_layers|T_layers|time_embed)\.",
    renames=(
        (r"^(?!backbone\.|text_backbone\.|logit_scale$)", "backbone."),
        (r"timesFPN", "STAN"),
    ),
    constants={"logit_scale": LOG_100},
    view=VIEW,
    adapter=r"backbone\.STAN_.*",
    options={"btadapter": {"class_token": "backbone", "gates": "none"}},
    rules=(
        *clip_tower("backbone."),
        Rule("backbone.visual_projection.weight", ("visual/projection/kernel",), LINEAR),
        *_branch_layers("backbone.STAN"),
        Rule(
            "backbone.STAN_T_layers.{i}.layers.weight",
            (f"{_BRANCH}/temporal_{{i}}/conv/kernel",),
            _CONV_OVER_TIME,
        ),
        Rule("backbone.STAN_T_layers.{i}.layers.bias", (f"{_BRANCH}/temporal_{{i}}/conv/bias",)),
        *hf_text("text_backbone."),
    ),
)

BTADAPTER_EVA = Family(
    name="btadapter_eva",
    sign=r"(^|\.)(btadapter_[ST]\.|patch_embed\.proj\.)",
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
    visual=EVA_VISION,
    view=VIEW,
    adapter=r"backbone\.btadapter_.*",
    rules=(
        *eva_tower("backbone."),
        *norm("backbone.norm", "visual/post_norm"),
        *dense("backbone.head", "visual/projection"),
        *eva_branch("backbone."),
        *openai_text("text_backbone."),
        SCALE,
    ),
)


def refuse_enormous(tensors: Tensors, path: object) -> None:
    """Raises ConversionError for EVA02-CLIP-E, whose names are EVA-CLIP-G's."""
    for name, tensor in tensors.items():
        patches = re.search(r"(^|\.)patch_embed\.proj\.weight$", name)
        if patches and np.shape(tensor)[:1] == (_ENORMOUS,):
            raise ConversionError(
                f"{path}: {name} is of EVA02-CLIP-E, whose vision tower normalises after each "
                "sublayer (postnorm), which is not converted; EVA-CLIP-G, EVA02-CLIP-B and L are"
            )
