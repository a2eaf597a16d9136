"""Names of OpenAI's CLIP, which others built on."""

from vlt.convert.family import dense, fused, norm
from vlt.convert.table import KEEP, SPLIT, SPLIT_LINEAR, Rule, Transform


def openai_vision(prefix: str, patch: Transform) -> list[Rule]:
    """The vision tower. patch: what becomes of the patch embedding's kernel."""
    return [
        Rule(f"{prefix}class_embedding", ("visual/class_embedding",)),
        Rule(f"{prefix}conv1.weight", ("visual/patch_embedding/kernel",), patch),
        Rule(f"{prefix}positional_embedding", ("visual/position_embedding",)),
        *norm(f"{prefix}ln_pre", "visual/pre_norm"),
        *_block(f"{prefix}transformer.resblocks.{{i}}", "visual/blocks_{i}"),
        *norm(f"{prefix}ln_post", "visual/post_norm"),
        Rule(f"{prefix}proj", ("visual/projection/kernel",), KEEP),
    ]


def openai_text(prefix: str) -> list[Rule]:
    """The text tower."""
    return [
        Rule(f"{prefix}token_embedding.weight", ("text/token_embedding/embedding",)),
        Rule(f"{prefix}positional_embedding", ("text/position_embedding",)),
        *_block(f"{prefix}transformer.resblocks.{{i}}", "text/blocks_{i}"),
        *norm(f"{prefix}ln_final", "text/final_norm"),
        Rule(f"{prefix}text_projection", ("text/projection/kernel",), KEEP),
    ]


def _block(source: str, target: str) -> list[Rule]:
    return [
        *norm(f"{source}.ln_1", f"{target}/norm1"),
        fused(f"{source}.attn.in_proj_weight", f"{target}/attention", "kernel", SPLIT_LINEAR),
        fused(f"{source}.attn.in_proj_bias", f"{target}/attention", "bias", SPLIT),
        *dense(f"{source}.attn.out_proj", f"{target}/attention/out"),
        *norm(f"{source}.ln_2", f"{target}/norm2"),
        *dense(f"{source}.mlp.c_fc", f"{target}/mlp/fc1"),
        *dense(f"{source}.mlp.c_proj", f"{target}/mlp/fc2"),
    ]
