"""Layouts of chat models and of their parts: LLaVA's, LAVIS', and transformers' InstructBLIP.

A file may hold a whole model or one part of it; reading it tells which.
"""

from collections.abc import Iterable
from typing import Any

from vlt.convert.layouts.btadapter import (
    EVA_VISION,
    clip_branch,
    clip_tower,
    eva_branch,
    eva_tower,
)
from vlt.convert.layouts.clip import hf_vision
from vlt.convert.layouts.llama import llama_rules
from vlt.convert.layouts.qformer import QUERY_VALUE, huggingface_qformer, qformer_rules
from vlt.convert.tables.family import Family, dense, fused, norm
from vlt.convert.tables.table import CONV, FIRST_OF_2, FIRST_OF_3, SPLIT_LINEAR, Rule
from vlt.models.spec import ChatSpec

_DROPPED = r"(.*\.)?(position_ids|rotary_emb\.inv_freq|attention\.masked_bias)"
# Tensors of BLIP-2's stages: the heads of its own training, and its language models.
_OTHER_MODELS = (
    r"Qformer\.cls\..*|(t5|opt)_(model|proj)\..*|(vision_proj|text_proj|itm_head)\..*|temp"
)
_EVA: dict[str, Any] = {"activation": "gelu", "head_width": 88, "visual": EVA_VISION}


def _chat(name: str, sign: str, rules: Iterable[Rule], **fields: Any) -> Family:
    given = {"dropped": _DROPPED, "model": name} | fields
    return Family(name=name, sign=sign, rules=(*rules,), kind=ChatSpec.kind, **given)


def _lavis(name: str, sign: str, language: str, projection: str) -> Family:
    rules = (
        *eva_tower("visual_encoder."),
        *eva_branch(""),
        *qformer_rules(),
        *dense(projection, "connector/projection"),
        *llama_rules(f"{language}."),
    )
    return _chat(name, sign, rules, renames=((r"^module\.", ""),), left_out=_OTHER_MODELS, **_EVA)


def _mlp_projector() -> list[Rule]:
    return [
        *dense("model.mm_projector.0", "connector/fc1"),
        *dense("model.mm_projector.2", "connector/fc2"),
    ]


LLAVA = _chat(
    "llava",
    r"mm_projector\.|^multi_modal_projector\.",
    (
        *clip_tower("vision_tower."),
        *hf_vision("vision_tower.vision_model."),
        *clip_branch("vision_tower."),
        *dense("model.mm_projector", "connector/projection"),
        *_mlp_projector(),
        *llama_rules(),
    ),
    renames=(
        (r"^module\.", ""),
        (r"^mm_projector\.", "model.mm_projector."),
        (r"^model\.vision_tower\.(vision_tower\.)?", "vision_tower."),
        # As transformers saves LLaVA-1.5.
        (r"^language_model\.", ""),
        (r"^vision_tower\.(?=(embeddings|encoder)\.)", "vision_tower.vision_model."),
        (r"^multi_modal_projector\.linear_1\.", "model.mm_projector.0."),
        (r"^multi_modal_projector\.linear_2\.", "model.mm_projector.2."),
    ),
    left_out=r"vision_tower\.visual_projection\..*",
)

LLAMA = _chat("llama", r"^model\.(layers\.\d+\.self_attn\.q_proj|embed_tokens)\.", llama_rules())

MINIGPT4 = _lavis("minigpt4", r"^(module\.)?llama_(proj|model)\.", "llama_model", "llama_proj")
INSTRUCTBLIP = _lavis("instructblip", r"^(module\.)?llm_(proj|model)\.", "llm_model", "llm_proj")
BLIP2 = _chat(
    "blip2",
    r"^(module\.)?(Qformer\.|query_tokens$|ln_vision\.)",
    (*eva_tower("visual_encoder."), *qformer_rules()),
    renames=((r"^module\.", ""),),
    left_out=_OTHER_MODELS,
    model="",
    **_EVA,
)

INSTRUCTBLIP_HF = _chat(
    "instructblip_hf",
    r"^(qformer|language_projection)\.",
    (
        *huggingface_qformer(),
        Rule("vision_model.embeddings.class_embedding", ("visual/class_embedding",), FIRST_OF_3),
        Rule(
            "vision_model.embeddings.position_embedding",
            ("visual/position_embedding",),
            FIRST_OF_2,
        ),
        Rule(
            "vision_model.embeddings.patch_embedding.weight",
            ("visual/patch_embedding/kernel",),
            CONV,
        ),
        Rule("vision_model.embeddings.patch_embedding.bias", ("visual/patch_embedding/bias",)),
        *norm("vision_model.encoder.layers.{i}.layer_norm1", "visual/blocks_{i}/norm1"),
        fused(
            "vision_model.encoder.layers.{i}.self_attn.qkv.weight",
            "visual/blocks_{i}/attention",
            "kernel",
            SPLIT_LINEAR,
        ),
        Rule(
            "vision_model.encoder.layers.{i}.self_attn.qkv.bias",
            ("visual/blocks_{i}/attention/query/bias", "visual/blocks_{i}/attention/value/bias"),
            QUERY_VALUE,
        ),
        *dense(
            "vision_model.encoder.layers.{i}.self_attn.projection",
            "visual/blocks_{i}/attention/out",
        ),
        *norm("vision_model.encoder.layers.{i}.layer_norm2", "visual/blocks_{i}/norm2"),
        *dense("vision_model.encoder.layers.{i}.mlp.fc1", "visual/blocks_{i}/mlp/fc1"),
        *dense("vision_model.encoder.layers.{i}.mlp.fc2", "visual/blocks_{i}/mlp/fc2"),
        *dense("language_projection", "connector/projection"),
        *llama_rules("language_model."),
        *eva_branch(""),
    ),
    model="instructblip",
    **_EVA,
)

EVA = _chat(
    "eva",
    r"^blocks\.\d+\.attn\.q_bias$",
    eva_tower(""),
    left_out=r"(norm|fc_norm|head)\..*",
    model="",
    **_EVA,
)

CHAT_FAMILIES = (INSTRUCTBLIP_HF, MINIGPT4, INSTRUCTBLIP, BLIP2, LLAVA, EVA)
