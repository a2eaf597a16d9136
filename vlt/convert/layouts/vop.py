"""VoP without variants over CLIP, as ModelScope has it (`vop_retrieval`).

Every tensor of the CLIP but its scale is stored twice, under the model and under one of the
encoders. A file of `vop_retrieval_se` is a CLIP alone, some of whose weights were trained.
"""

import dataclasses
from typing import Any

from vlt.convert.layouts.clip import OPENAI
from vlt.convert.tables.family import Family
from vlt.convert.tables.sizes import Leaves, common_size
from vlt.convert.tables.table import Rule, Transform
from vlt.model_io.view import View

_SECOND_OF_4 = Transform(
    "drop 1 unit axis", 4, lambda x: [x.squeeze(axis=1)], lambda parts: parts[0][:, None]
)

VOP = Family(
    name="vop",
    sign=r"(^|\.)(visual|text)_prompt_learner\.",
    renames=((r"^module\.", ""),),
    dropped=rf"clip\.({OPENAI.dropped})",
    aliases={
        r"image_encoder\.(.+)": r"clip.visual.\1",
        r"text_encoder\.(.+)": r"clip.\1",
    },
    doubled={
        r"clip\.visual\.(.+)": r"image_encoder.\1",
        r"clip\.(?!logit_scale$)(.+)": r"text_encoder.\1",
    },
    frame_norm=True,
    view=View("segment_centre", 12),
    options={"vop": {"variant": "basic"}},
    rules=(
        *(dataclasses.replace(rule, source=f"clip.{rule.source}") for rule in OPENAI.rules),
        Rule("visual_prompt_learner.visual_prompts", ("visual/vop_prompt",), _SECOND_OF_4),
        Rule("text_prompt_learner.text_prompts", ("text/vop_prompt",)),
    ),
)


def vop_options(leaves: Leaves, notes: list[str]) -> dict[str, Any] | None:
    """VoP's options, or None if there are no leaves of it; adds to the notes.

    The prompts on both sides of a text are one tensor; each is assumed to have half.
    """
    if not any(path.endswith("/vop_prompt") for path in leaves):
        return None
    both = common_size(leaves, "text/vop_prompt", axis=1)
    suffix = both // 2
    notes.append(f"vop.prefix: {both - suffix}, vop.suffix: {suffix}, half of {both} (assumed)")
    tokens = common_size(leaves, "visual/vop_prompt", axis=1)
    return {"tokens": tokens, "prefix": both - suffix, "suffix": suffix}
