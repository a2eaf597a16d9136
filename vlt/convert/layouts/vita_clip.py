"""Vita-CLIP's layout: a vision tower with names of its own, OpenAI's text tower, and prompts."""

from vlt.convert.layouts.clip import SCALE, hf_attention, openai_text
from vlt.convert.tables.family import Family, dense, norm
from vlt.convert.tables.table import CONV, FIRST_OF_2, Rule
from vlt.model_io.view import View


def _block(source: str, target: str) -> list[Rule]:
    prompts = f"{target}/vita_clip"
    return [
        *norm(f"{source}.norm1", f"{target}/norm1"),
        *hf_attention(f"{source}.attn", f"{target}/attention"),
        *norm(f"{source}.norm2", f"{target}/norm2"),
        *dense(f"{source}.mlp.fc1", f"{target}/mlp/fc1"),
        *dense(f"{source}.mlp.fc2", f"{target}/mlp/fc2"),
        *dense(f"{source}.cls_proj", f"{prompts}/cls_proj"),
        *norm(f"{source}.summary_ln", f"{prompts}/summary_norm"),
        *hf_attention(f"{source}.summary_attn_layer", f"{prompts}/summary_attention"),
    ]


VITA_CLIP = Family(
    name="vita_clip",
    sign=r"(^|\.)visual\.(time_embed|global_prompts|blocks\.\d+\.(cls_proj|local_prompts)(\..*)?)$",
    renames=((r"^module\.", ""),),
    dropped=r"prompt_learner\.token_(prefix|suffix)",
    visual={"patch_bias": True},
    # CLIP's patch embedding has no bias; the published code loads zeros for it.
    zeros={"visual/patch_embedding/bias": "visual/pre_norm/bias"},
    view=View("segment_centre", 8),
    rules=(
        Rule("visual.cls_token", ("visual/class_embedding",)),
        Rule("visual.patch_embed.proj.weight", ("visual/patch_embedding/kernel",), CONV),
        Rule("visual.patch_embed.proj.bias", ("visual/patch_embedding/bias",)),
        Rule("visual.pos_embed", ("visual/position_embedding",)),
        *norm("visual.ln_pre", "visual/pre_norm"),
        *_block("visual.blocks.{i}", "visual/blocks_{i}"),
        *norm("visual.ln_post", "visual/post_norm"),
        Rule("visual.proj", ("visual/projection/kernel",)),
        Rule("visual.time_embed", ("visual/vita_clip/time_embedding",)),
        Rule("visual.global_prompts", ("visual/vita_clip/global_prompts",)),
        Rule(
            "visual.blocks.{i}.local_prompts",
            ("visual/vita_clip/local_prompts_{i}",),
            FIRST_OF_2,
        ),
        *openai_text("textual."),
        Rule("prompt_learner.ctx", ("text/vita_clip/context",)),
        SCALE,
    ),
)
