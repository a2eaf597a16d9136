"""MoTE's layout: CLIP and the head after it, in two entries of one file. No published file has the
text tower, which MoTE leaves unchanged.
"""

from vlt.convert.layouts.clip import openai_text, openai_vision
from vlt.convert.tables.family import Family, dense, fused, norm
from vlt.convert.tables.table import CONV, SPLIT, SPLIT_LINEAR, Rule
from vlt.model_io.view import View

MOST_EXPERTS = 16
_HEAD, _BLOCK = "fusion_model_state_dict", "visual/mote/blocks_{i}"


def _experts(source: str, target: str) -> list[Rule]:
    names = {"fc_up": "fc1", "fc_dn": "fc2"}
    return [
        rule
        for j in range(MOST_EXPERTS)
        for theirs, ours in names.items()
        for rule in dense(f"{source}.{theirs}.{j}", f"{target}/{ours}_{j}")
    ]


def _block(source: str, target: str) -> list[Rule]:
    return [
        *norm(f"{source}.ln_1", f"{target}/norm1"),
        fused(f"{source}.attn.in_proj_weight", f"{target}/attention", "kernel", SPLIT_LINEAR),
        fused(f"{source}.attn.in_proj_bias", f"{target}/attention", "bias", SPLIT),
        *dense(f"{source}.attn.out_proj", f"{target}/attention/out"),
        *norm(f"{source}.ln_2", f"{target}/norm2"),
        *_experts(f"{source}.mlp", f"{target}/mlp"),
        Rule(f"{source}.mlp.mote_fusion_weight", (f"{target}/mlp/fusion_weight",)),
    ]


MOTE = Family(
    name="mote",
    sign=r"^fusion_model_state_dict\.(module\.)?(spe_cls_feature$|.*\.mlp\.(fc_up|mote_fusion))",
    renames=((r"^((fusion_)?model_state_dict)\.module\.", r"\1."),),
    dropped=r"model_state_dict\.(input_resolution|context_length|vocab_size)",
    adapter=r"model_state_dict\.(visual\..*|logit_scale)|fusion_model_state_dict\..*",
    alone="no text tower; --set base=FOLDER names the model folder of the CLIP it was trained on",
    completed=r"text/.*",
    view=View("segment_centre", 8),
    rules=(
        *openai_vision("model_state_dict.visual.", CONV),
        *openai_text("model_state_dict."),
        Rule("model_state_dict.logit_scale", ("logit_scale",)),
        Rule(f"{_HEAD}.spe_cls_feature", ("mote/classes",)),
        Rule(f"{_HEAD}.frame_position_embeddings.weight", ("visual/mote/position_embedding",)),
        *_block(f"{_HEAD}.transformer.resblocks.{{i}}", _BLOCK),
    ),
)
