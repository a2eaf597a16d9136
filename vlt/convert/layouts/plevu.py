"""PLEVU (Efficient-Prompt) over CLIP, as its training saves it."""

import dataclasses
from typing import Any

from vlt.adapters import plevu
from vlt.convert.errors import ConversionError
from vlt.convert.layouts.clip import OPENAI, openai_block
from vlt.convert.tables.family import Family
from vlt.convert.tables.sizes import Leaves, Settings, count_layers
from vlt.convert.tables.table import Rule
from vlt.model_io.view import View

_BLOCKS = "visual/plevu/blocks_"
PLEVU_FRAMES = "visual/plevu/position_embedding"

PLEVU = Family(
    name="plevu",
    sign=r"(^|\.)(temporalEmbedding|temporalModelling)\.",
    renames=((r"^module\.", ""),),
    dropped=rf"clipmodel\.({OPENAI.dropped})",
    view=View("segment_centre", 16),
    rules=(
        *(dataclasses.replace(rule, source=f"clipmodel.{rule.source}") for rule in OPENAI.rules),
        Rule("embedding.weight", ("text/plevu_prompt",)),
        Rule("temporalEmbedding.weight", (PLEVU_FRAMES,)),
        *openai_block("temporalModelling.resblocks.{i}", f"{_BLOCKS}{{i}}"),
    ),
)


def plevu_options(leaves: Leaves, settings: Settings, notes: list[str]) -> dict[str, Any] | None:
    """PLEVU's options, or None if there are no leaves of it; adds to the notes.

    The table of prompts has a row for every position of a text, however many of them are read.
    """
    chosen = {k.removeprefix("plevu."): v for k, v in settings.items() if k.startswith("plevu.")}
    if not any("/plevu" in path for path in leaves):
        if chosen:
            raise ConversionError(f"--set plevu.{next(iter(chosen))}: there are no leaves of PLEVU")
        return None
    options: dict[str, Any] = {"layers": count_layers(leaves, _BLOCKS)}
    for name in ("prefix", "postfix", "heads"):
        options[name] = chosen.get(name, getattr(plevu.PLEVU, name))
        told = "set" if name in chosen else "of the published command"
        notes.append(f"plevu.{name}: {options[name]} ({told})")
    return options
