"""MV-Adapter over CLIP, under the names that its code gives to CLIP's own tensors.

The published code passes weights through float16; no checkpoint was published.
"""

import re
from collections.abc import Iterable
from typing import Any

from vlt.convert.layouts.clip import OPENAI, SCALE, hf_attention, openai_block
from vlt.convert.tables.family import Family, dense, norm
from vlt.convert.tables.sizes import Leaves, common_size
from vlt.convert.tables.table import CONV, LINEAR, Rule
from vlt.model_io.view import View

_BLOCKS = {"visual": "clip.visual.transformer.resblocks", "text": "clip.transformer.resblocks"}
_SHARED = "shared_MVAdapter/factor"


def _block(source: str, target: str) -> list[Rule]:
    adapter, ours = f"{source}.mlp.adapter", f"{target}/mv_adapter"
    return [
        *norm(f"{source}.attn.ln", f"{target}/norm1"),
        *hf_attention(f"{source}.attn", f"{target}/attention"),
        *norm(f"{source}.mlp.ln", f"{target}/norm2"),
        *dense(f"{source}.mlp.c_fc", f"{target}/mlp/fc1"),
        *dense(f"{source}.mlp.c_proj", f"{target}/mlp/fc2"),
        *dense(f"{adapter}.down", f"{ours}/down"),
        *dense(f"{adapter}.md_proj", f"{ours}/down/tie"),
        Rule(f"{adapter}.positional_embedding", (f"{ours}/position_embedding",)),
        *norm(f"{adapter}.ln_pre", f"{ours}/norm"),
        *openai_block(f"{adapter}.block", f"{ours}/block"),
        Rule(f"{adapter}.cc", (f"{ours}/class_token",)),
        *dense(f"{adapter}.conv_rf_c.g", f"{ours}/gate_class"),
        *dense(f"{adapter}.conv_rf_c.a", f"{ours}/gate_in"),
        Rule(f"{adapter}.conv_rf_c.b.weight", (f"{ours}/gate_out/kernel",), LINEAR),
        *dense(f"{adapter}.up", f"{ours}/up"),
    ]


def _ties(names: Iterable[str]) -> dict[str, str]:
    """{second name: first} of shared vectors: they are in a list and, by block, in both towers."""
    names, found = [*names], {}
    for blocks in _BLOCKS.values():
        tied = re.compile(rf"{re.escape(blocks)}\.(\d+)\.mlp\.adapter\.md_proj\.weight")
        layers = sorted(int(match[1]) for name in names if (match := tied.fullmatch(name)))
        for index, layer in enumerate(layers):
            found[f"{blocks}.{layer}.mlp.adapter.shared_factor"] = f"clip.prompt.{index}"
    return found


MV_ADAPTER = Family(
    name="mv_adapter",
    sign=r"\.mlp\.adapter\.(cc|ln_pre\.|conv_rf_\w\.|md_proj\.)",
    renames=((r"^module\.", ""),),
    dropped=rf"clip\.({OPENAI.dropped})",
    ties=_ties,
    frame_norm=True,
    view=View("fps1_linspace", 12),  # for MSR-VTT
    options={"mv_adapter": {"heads": 2, "scale": 0.1}},
    rules=(
        Rule("clip.visual.class_embedding", ("visual/class_embedding",)),
        Rule("clip.visual.conv1.weight", ("visual/patch_embedding/kernel",), CONV),
        Rule("clip.visual.positional_embedding", ("visual/position_embedding",)),
        *norm("clip.visual.ln_pre", "visual/pre_norm"),
        *_block(f"{_BLOCKS['visual']}.{{i}}", "visual/blocks_{i}"),
        *norm("clip.visual.ln_post", "visual/post_norm"),
        Rule("clip.visual.proj", ("visual/projection/kernel",)),
        Rule("clip.token_embedding.weight", ("text/token_embedding/embedding",)),
        Rule("clip.positional_embedding", ("text/position_embedding",)),
        *_block(f"{_BLOCKS['text']}.{{i}}", "text/blocks_{i}"),
        *norm("clip.ln_final", "text/final_norm"),
        Rule("clip.text_projection", ("text/projection/kernel",)),
        Rule("clip.prompt.{i}", (f"{_SHARED}_{{i}}",)),
        Rule(f"clip.{SCALE.source}", SCALE.targets),
    ),
)


def mv_adapter_options(leaves: Leaves) -> dict[str, Any] | None:
    """Options of MV-Adapter, read off its leaves; None where there are none."""
    if not any("/mv_adapter/" in path for path in leaves):
        return None
    adapter = r"{}/blocks_\d+/mv_adapter/"
    bottleneck = common_size(leaves, adapter.format("(visual|text)") + "down/bias")
    tied = re.compile(adapter.format(r"(?:visual|text)").replace(r"\d+", r"(\d+)") + "down/tie/.*")
    layers = {int(match[1]) for path in leaves if (match := tied.fullmatch(path))}
    scaled = common_size(leaves, adapter.format("(visual|text)") + "down/tie/bias")
    rows = common_size(leaves, adapter.format("visual") + "position_embedding", axis=0)
    options = {
        "bottleneck": bottleneck,
        "gate": common_size(leaves, adapter.format("visual") + "gate_in/bias"),
        "frames": max((rows - 1) // 2, 1),
        "words": common_size(leaves, adapter.format("text") + "position_embedding", axis=0),
    }
    if not layers:
        return options | {"tie": "none"}
    return options | {
        "tie": "out" if scaled == bottleneck else "in",
        "tied_layers": tuple(sorted(layers)),
        "factor": common_size(leaves, rf"{_SHARED}_\d+"),
    }
