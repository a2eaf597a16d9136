"""DGL over CLIP, as its authors saved it."""

import dataclasses
from typing import Any

from vlt.convert.errors import ConversionError
from vlt.convert.layouts.clip import OPENAI, openai_block
from vlt.convert.tables.family import Family, dense
from vlt.convert.tables.sizes import Leaves, common_size
from vlt.convert.tables.table import FIRST_OF_2, Rule
from vlt.model_io.view import View

_LATENT = "shared_DGL"

DGL = Family(
    name="dgl",
    sign=r"(^|\.)(visual\.prompt_embeddings|visual_prompt_embedding|unified_prompt_\w+\..*)$",
    renames=((r"^module\.", ""), (r"^(?!clip\.)", "clip.")),
    dropped=rf"clip\.({OPENAI.dropped}|visual\.position_ids)",
    view=View("segment_centre", 12),  # for MSR-VTT
    rules=tuple(
        dataclasses.replace(rule, source=f"clip.{rule.source}")
        for rule in (
            *OPENAI.rules,
            Rule("visual.prompt_embeddings", ("visual/global_prompt",), FIRST_OF_2),
            # The linear latent
            Rule("visual_prompt_embedding", (f"{_LATENT}/latent",), FIRST_OF_2),
            *dense("prefix_text_prompt_proj_layer", f"{_LATENT}/prefix"),
            *dense("postfix_text_prompt_proj_layer", f"{_LATENT}/postfix"),
            # The transformer's
            Rule("unified_prompt_embedding.weight", (f"{_LATENT}/embedding",)),
            *openai_block("PromptTransformer.resblocks.0", f"{_LATENT}/block"),
            *dense("unified_prompt_mlp.c_fc", f"{_LATENT}/text_fc1"),
            *dense("unified_prompt_mlp.c_proj", f"{_LATENT}/text_fc2"),
        )
    ),
)


def dgl_options(leaves: Leaves) -> dict[str, Any] | None:
    """Options of DGL, read off its leaves; None where there are none.

    Raises ConversionError: not exactly one latent, or rows that do not divide among the frames.
    """
    if not any(p == "visual/global_prompt" or p.startswith(f"{_LATENT}/") for p in leaves):
        return None
    latents = {"linear": f"{_LATENT}/latent", "transformer": f"{_LATENT}/embedding"}
    present = [name for name, path in latents.items() if path in leaves]
    if len(present) != 1:
        raise ConversionError(
            f"tensors of {'both' if present else 'neither'} of DGL's latents are there, "
            "visual_prompt_embedding of the linear one, unified_prompt_embedding of the "
            "transformer's; a file has one of them"
        )
    (latent,) = present
    rows = leaves[latents[latent]].shape[0]
    count = common_size(leaves, "visual/global_prompt", axis=0)
    options = {"latent": latent, "frames": 0, "global_tokens": count, "tokens": rows}
    if latent == "linear":
        return options
    frames, rest = divmod(rows, count)
    if rest or frames < 3:
        raise ConversionError(
            f"unified_prompt_embedding has {rows} rows; they must be {count} for each frame, as "
            f"prompt_embeddings has, and {2 * count} for texts"
        )
    return options | {"frames": frames - 2, "tokens": count}
