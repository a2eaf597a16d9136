"""TempMe over CLIP, as its authors saved it."""

import dataclasses

from vlt.convert.layouts.clip import OPENAI
from vlt.convert.tables.family import Family, fused
from vlt.convert.tables.table import LINEAR, MIDDLE_OF_4, SPLIT_LINEAR, Rule
from vlt.model_io.view import View


def _tempme_lora(source: str, target: str) -> list[Rule]:
    """LoRA with one A for q, k and v."""
    return [
        Rule(f"{source}.TVPt_LoRA_a", (f"{target}/lora_a",), LINEAR),
        fused(f"{source}.TVPt_LoRA_b", target, "lora_b", SPLIT_LINEAR),
    ]


_RULES = (
    *OPENAI.rules,
    *_tempme_lora("visual.transformer.resblocks.{i}.attn", "visual/blocks_{i}/attention"),
    *_tempme_lora("transformer.resblocks.{i}.attn", "text/blocks_{i}/attention"),
    Rule(
        "visual.transformer.resblocks.{i}.TVPt_Video_Positional_embedding",
        ("visual/blocks_{i}/clip_position",),
        MIDDLE_OF_4,
    ),
)

TEMPME = Family(
    name="tempme",
    sign=r"\.TVPt_",
    renames=((r"^module\.", ""), (r"^(?!clip\.)", "clip.")),
    dropped=rf"clip\.({OPENAI.dropped})",
    frame_norm=True,
    view=View("fps1_linspace", 12),  # as on MSR-VTT
    options={"lora": {"scale": 1.0}},
    rules=tuple(dataclasses.replace(rule, source=f"clip.{rule.source}") for rule in _RULES),
)
