"""BLIP's two layouts: as its authors (and Token Mixing's) saved it, and as transformers does.

One table per task, with the names of the published files.
"""

import dataclasses

from vlt.convert.tables.family import Family, Kind, dense, fused, norm
from vlt.convert.tables.table import CONV, FIRST_OF_2, FIRST_OF_3, SPLIT, SPLIT_LINEAR, Rule
from vlt.models.retriever import START_TEMPERATURE

_DECODER = "text_decoder.bert"
_HEAD = "text_decoder.cls.predictions"

# Parts of names that transformers spells differently, in the order of replacement.
_HUGGINGFACE = {
    "visual_encoder.cls_token": "vision_model.embeddings.class_embedding",
    "visual_encoder.pos_embed": "vision_model.embeddings.position_embedding",
    "visual_encoder.patch_embed.proj": "vision_model.embeddings.patch_embedding",
    "visual_encoder.norm": "vision_model.post_layernorm",
    "visual_encoder.blocks": "vision_model.encoder.layers",
    "layers.{i}.norm": "layers.{i}.layer_norm",
    "layers.{i}.attn.proj": "layers.{i}.self_attn.projection",
    "layers.{i}.attn.qkv": "layers.{i}.self_attn.qkv",
}


def _vision_block(source: str, target: str) -> list[Rule]:
    return [
        *norm(f"{source}.norm1", f"{target}/norm1"),
        fused(f"{source}.attn.qkv.weight", f"{target}/attention", "kernel", SPLIT_LINEAR),
        fused(f"{source}.attn.qkv.bias", f"{target}/attention", "bias", SPLIT),
        *dense(f"{source}.attn.proj", f"{target}/attention/out"),
        *norm(f"{source}.norm2", f"{target}/norm2"),
        *dense(f"{source}.mlp.fc1", f"{target}/mlp/fc1"),
        *dense(f"{source}.mlp.fc2", f"{target}/mlp/fc2"),
    ]


def bert_attention(source: str, target: str) -> list[Rule]:
    """An attention layer of BERT, and the norm that follows it."""
    names = ("query", "key", "value")
    return [
        *(r for name in names for r in dense(f"{source}.self.{name}", f"{target}/{name}")),
        *dense(f"{source}.output.dense", f"{target}/out"),
        *norm(f"{source}.output.LayerNorm", f"{target}_norm"),
    ]


def bert(source: str, target: str) -> list[Rule]:
    """BERT with cross-attention in some of its layers."""
    embeddings, layer = f"{source}.embeddings", f"{source}.encoder.layer.{{i}}"
    block = f"{target}/blocks_{{i}}"
    return [
        Rule(f"{embeddings}.word_embeddings.weight", (f"{target}/token_embedding/embedding",)),
        Rule(f"{embeddings}.position_embeddings.weight", (f"{target}/position_embedding",)),
        *norm(f"{embeddings}.LayerNorm", f"{target}/embedding_norm"),
        *bert_attention(f"{layer}.attention", f"{block}/attention"),
        *bert_attention(f"{layer}.crossattention", f"{block}/cross_attention"),
        *dense(f"{layer}.intermediate.dense", f"{block}/mlp/fc1"),
        *dense(f"{layer}.output.dense", f"{block}/mlp/fc2"),
        *norm(f"{layer}.output.LayerNorm", f"{block}/mlp_norm"),
    ]


def language_head(source: str, target: str) -> list[Rule]:
    """The head that computes logits, without the embeddings that it is tied to."""
    return [
        *dense(f"{source}.transform.dense", f"{target}/transform"),
        *norm(f"{source}.transform.LayerNorm", f"{target}/norm"),
        Rule(f"{source}.bias", (f"{target}/bias",)),
    ]


_VISION = [
    Rule("visual_encoder.cls_token", ("visual/class_embedding",), FIRST_OF_3),
    Rule("visual_encoder.pos_embed", ("visual/position_embedding",), FIRST_OF_2),
    Rule("visual_encoder.patch_embed.proj.weight", ("visual/patch_embedding/kernel",), CONV),
    Rule("visual_encoder.patch_embed.proj.bias", ("visual/patch_embedding/bias",)),
    *_vision_block("visual_encoder.blocks.{i}", "visual/blocks_{i}"),
    *norm("visual_encoder.norm", "visual/post_norm"),
]
_WRITER = [
    *bert(_DECODER, "text"),
    *language_head(_HEAD, "text/lm_head"),
]
RETRIEVAL_HEADS = [
    *dense("vision_proj", "visual/projection"),
    *dense("text_proj", "text_projection"),
    *dense("itm_head", "itm_head"),
]
TEMPERATURE = Rule("temp", ("temperature",))

_KINDS = {
    "captioner": Kind(("text_decoder",), (*_VISION, *_WRITER)),
    "retriever": Kind(
        ("text_encoder", "vision_proj", "text_proj", "itm_head"),
        (*_VISION, *bert("text_encoder", "text"), *RETRIEVAL_HEADS, TEMPERATURE),
    ),
    "answerer": Kind(
        ("text_encoder", "text_decoder"), (*_VISION, *bert("text_encoder", "question"), *_WRITER)
    ),
}

BLIP = Family(
    name="blip",
    sign=r"^(module\.)?visual_encoder\.",
    renames=((r"^module\.", ""),),
    left_out=(
        r"(visual_encoder|vision_proj|text_encoder|text_proj)_m\..*"
        r"|(image|text|idx|ptr)_queue|queue_ptr"
    ),
    aliases={
        f"{_HEAD}.decoder.weight": f"{_DECODER}.embeddings.word_embeddings.weight",
        f"{_HEAD}.decoder.bias": f"{_HEAD}.bias",
    },
    activation="gelu",
    model="blip",
    kinds=_KINDS,
    visual={"norm_eps": 1e-6, "pre_norm": False, "patch_bias": True, "projection_bias": True},
)


def _as_huggingface(kind: Kind) -> Kind:
    rules = [rule for rule in kind.rules if rule is not TEMPERATURE]
    starts = {"temperature": START_TEMPERATURE} if TEMPERATURE in kind.rules else {}
    return Kind(kind.parts, tuple(map(_respelled, rules)), starts)


def _respelled(rule: Rule) -> Rule:
    name = rule.source
    for original, respelled in _HUGGINGFACE.items():
        name = name.replace(original, respelled)
    return dataclasses.replace(rule, source=name)


BLIP_HF = dataclasses.replace(
    BLIP,
    name="blip_hf",
    sign=r"^text_(decoder\.bert|encoder)\.encoder\.layer\.",
    renames=(),
    left_out=Family.left_out,
    kinds={name: _as_huggingface(kind) for name, kind in _KINDS.items()},
)
