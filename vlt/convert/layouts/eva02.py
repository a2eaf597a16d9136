"""EVA02-CLIP (Fang et al., arXiv:2303.11331; Sun et al., arXiv:2303.15389) as its authors saved it.

Its vision tower rotates queries and keys by position, gates its MLP and has two more LayerNorms per
block; its text tower is CLIP's.
"""

from vlt.convert.layouts.btadapter import EVA_VISION, eva_tower
from vlt.convert.layouts.clip import SCALE, VIDEOS, openai_text
from vlt.convert.tables.family import Family, dense, norm
from vlt.convert.tables.table import LINEAR, Rule


def _block(source: str, target: str) -> list[Rule]:
    attention, mlp = f"{target}/attention", f"{target}/mlp"
    return [
        *norm(f"{source}.norm1", f"{target}/norm1"),
        Rule(f"{source}.attn.q_proj.weight", (f"{attention}/query/kernel",), LINEAR),
        Rule(f"{source}.attn.q_bias", (f"{attention}/query/bias",)),
        Rule(f"{source}.attn.k_proj.weight", (f"{attention}/key/kernel",), LINEAR),
        Rule(f"{source}.attn.v_proj.weight", (f"{attention}/value/kernel",), LINEAR),
        Rule(f"{source}.attn.v_bias", (f"{attention}/value/bias",)),
        *norm(f"{source}.attn.inner_attn_ln", f"{attention}/sub_norm"),
        *dense(f"{source}.attn.proj", f"{attention}/out"),
        *norm(f"{source}.norm2", f"{target}/norm2"),
        *dense(f"{source}.mlp.w1", f"{mlp}/gate"),
        *dense(f"{source}.mlp.w2", f"{mlp}/fc1"),
        *norm(f"{source}.mlp.ffn_ln", f"{mlp}/sub_norm"),
        *dense(f"{source}.mlp.w3", f"{mlp}/fc2"),
    ]


EVA02 = Family(
    name="eva02",
    sign=r"(^|\.)blocks\.\d+\.attn\.inner_attn_ln\.",
    renames=((r"^module\.", ""),),
    dropped=r"(.*\.)?(attn_mask|rope\.freqs_(cos|sin))",
    activation="gelu",
    model="eva02_clip",
    visual=EVA_VISION | {"activation": "silu", "rope": "eva", "gated_mlp": True, "sub_norm": True},
    **VIDEOS,
    rules=(
        *eva_tower("visual.", _block),
        *norm("visual.norm", "visual/post_norm"),
        *dense("visual.head", "visual/projection"),
        *openai_text("text."),
        SCALE,
    ),
)
