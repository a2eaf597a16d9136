"""The Q-Former, and the norm and queries before it, in LAVIS' names and in transformers'.

For BLIP-2's stages (Li et al., arXiv:2301.12597), MiniGPT-4 and InstructBLIP.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from vlt.convert.layouts.blip import bert_attention
from vlt.convert.tables.family import dense, norm
from vlt.convert.tables.sizes import common_size, count_layers, heads_of
from vlt.convert.tables.table import FIRST_OF_2, Rule, Transform
from vlt.models.spec import QFormerSpec

_ROOT = "connector/qformer"
# transformers' spellings where they differ, in the order of replacement.
_HUGGINGFACE = {
    "Qformer.bert.embeddings.LayerNorm": "qformer.embeddings.layernorm",
    "Qformer.bert.": "qformer.",
    "attention.self.": "attention.attention.",
    "ln_vision": "vision_model.post_layernorm",
}


def _mlp(source: str, suffix: str, target: str) -> list[Rule]:
    return [
        *dense(f"{source}.intermediate{suffix}.dense", f"{target}/fc1"),
        *dense(f"{source}.output{suffix}.dense", f"{target}/fc2"),
        *norm(f"{source}.output{suffix}.LayerNorm", f"{target}_norm"),
    ]


def qformer_rules() -> list[Rule]:
    """Rules in LAVIS' names, with an instruction's word embeddings and feed-forward layers."""
    embeddings, layer = "Qformer.bert.embeddings", "Qformer.bert.encoder.layer.{i}"
    block = f"{_ROOT}/blocks_{{i}}"
    words, places = (f"{embeddings}.{kind}_embeddings.weight" for kind in ("word", "position"))
    return [
        *norm("ln_vision", "connector/norm"),
        Rule("query_tokens", ("connector/queries",), FIRST_OF_2),
        *norm(f"{embeddings}.LayerNorm", f"{_ROOT}/embedding_norm"),
        Rule(words, (f"{_ROOT}/token_embedding/embedding",)),
        Rule(places, (f"{_ROOT}/position_embedding",)),
        *bert_attention(f"{layer}.attention", f"{block}/attention"),
        *bert_attention(f"{layer}.crossattention", f"{block}/cross_attention"),
        *_mlp(layer, "_query", f"{block}/mlp_queries"),
        *_mlp(layer, "", f"{block}/mlp"),
    ]


def huggingface_qformer() -> list[Rule]:
    """The same rules in transformers' names."""
    return [dataclasses.replace(rule, source=_respelled(rule.source)) for rule in qformer_rules()]


def _respelled(name: str) -> str:
    for original, respelled in _HUGGINGFACE.items():
        name = name.replace(original, respelled)
    return name


def _queries_and_values(bias: np.ndarray) -> list[np.ndarray]:
    query, key, value = np.split(bias, 3)
    if key.any():
        raise ValueError("a bias of the keys, which EVA has none of")
    return [query, value]


def _with_zeros(parts: list[np.ndarray]) -> np.ndarray:
    query, value = parts
    return np.concatenate([query, np.zeros_like(query), value])


QUERY_VALUE = Transform("split q|0|v", 1, _queries_and_values, _with_zeros)


def qformer_spec(
    leaves: Mapping[str, Any], settings: Mapping[str, Any], notes: list[str]
) -> QFormerSpec:
    """Sizes of a Q-Former, read off its leaves; adds to the notes.

    Raises ConversionError for heads that do not divide the width.
    """
    width = common_size(leaves, rf"{_ROOT}/(embedding_norm|blocks_\d+/\w+_norm)/(scale|bias)")
    return QFormerSpec(
        queries=common_size(leaves, "connector/queries", axis=0),
        width=width,
        layers=max(count_layers(leaves, f"{_ROOT}/blocks_"), 1),
        heads=heads_of("qformer", width, 64, settings, notes),
        mlp_width=common_size(leaves, rf"{_ROOT}/blocks_\d+/mlp_queries/fc1/(kernel|bias)"),
        source_width=common_size(leaves, "connector/norm/(scale|bias)"),
        cross_every=_cross_every(leaves),
        vocab=_rows(leaves, f"{_ROOT}/token_embedding/embedding"),
        context=_rows(leaves, f"{_ROOT}/position_embedding"),
    )


def _rows(leaves: Mapping[str, Any], path: str) -> int:
    return leaves[path].shape[0] if path in leaves else 0


def _cross_every(leaves: Iterable[str]) -> int:
    """Layers from one that reads the image to the next; 2 where fewer than two do."""
    pattern = re.compile(rf"{_ROOT}/blocks_(\d+)/cross_attention/")
    layers = sorted({int(m[1]) for path in leaves if (m := pattern.match(path))})
    return layers[1] - layers[0] if len(layers) > 1 else 2
