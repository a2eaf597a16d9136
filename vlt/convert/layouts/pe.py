"""PE-Core (Bolya et al., arXiv:2504.13181) as its authors publish it: OpenAI's names and a pooler.

Rotary positions have no tensors. PE-Lang and PE-Spatial are towers alone, for other uses.
"""

import re

from vlt.convert.errors import ConversionError
from vlt.convert.files.arrays import Tensors
from vlt.convert.layouts.clip import OPENAI, SCALE, openai_attention, openai_text, openai_vision
from vlt.convert.tables.family import Family, dense, norm
from vlt.convert.tables.table import CONV, FIRST_OF_3, Rule
from vlt.model_io.view import View

_POOL, _POOLER = "visual.attn_pool", "visual/pooler"

PE = Family(
    name="pe",
    sign=r"(^|\.)visual\.attn_pool\.probe$",
    renames=((r"^module\.", ""),),
    dropped=OPENAI.dropped,
    activation="gelu",
    head_widths={1536: 96},  # PE-Core G
    pool_heads=8,
    model="pe_core",
    visual={"pool": "attention", "rope": "pe"},
    pixels={"mean": [0.5] * 3, "std": [0.5] * 3, "resize": "bilinear", "crop": "none"},
    frame_norm=True,
    view=View("linspace_floor", 8),
    rules=(
        *openai_vision("visual.", CONV),
        Rule(f"{_POOL}.probe", (f"{_POOLER}/probe",), FIRST_OF_3),
        *openai_attention(f"{_POOL}.attn", f"{_POOLER}/cross_attention"),
        *norm(f"{_POOL}.layernorm", f"{_POOLER}/norm"),
        *dense(f"{_POOL}.mlp.c_fc", f"{_POOLER}/mlp/fc1"),
        *dense(f"{_POOL}.mlp.c_proj", f"{_POOLER}/mlp/fc2"),
        *openai_text(""),
        SCALE,
    ),
)


def refuse_unpooled(tensors: Tensors, path: object) -> None:
    """Raises ConversionError for PE-Lang and PE-Spatial: blocks with OpenAI's names and nothing
    after them."""
    names = {re.sub(r"^(module\.|visual\.)*", "", name) for name in tensors}
    blocks = any(name.startswith("transformer.resblocks.") for name in names)
    behind = ("ln_post.", "proj", "attn_pool.", "token_embedding.")
    if "conv1.weight" not in names or not blocks or any(n.startswith(behind) for n in names):
        return
    scaled = " (with LayerScale)" if any(name.endswith("ls_1.gamma") for name in names) else ""
    raise ConversionError(
        f"{path}: a vision tower{scaled} without pool, projection and text tower, as PE-Lang's and "
        "PE-Spatial's; convert PE-Core, which has them, as PE-Core-B16-224.pt"
    )
