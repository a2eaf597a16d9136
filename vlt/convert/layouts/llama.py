"""LLaMA as transformers saves it and as Meta published it (Touvron et al., arXiv:2302.13971)."""

import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from vlt.convert.errors import ConversionError
from vlt.convert.files.json_files import read_json
from vlt.convert.files.reading import read_checkpoint
from vlt.convert.layouts.huggingface import count, fraction
from vlt.convert.tables.lazy import Lazy, concatenated
from vlt.convert.tables.sizes import common_size, count_layers, heads_of
from vlt.convert.tables.table import LINEAR, Rule, Transform
from vlt.models.spec import LlamaSpec

_HEAD_WIDTH = 128
_BLOCK = "text/blocks_{i}"
_SHARD = re.compile(r"consolidated\.(\d\d)\.pth")
# Axis along which Meta's shards of a tensor are joined; other tensors are the same in all shards.
_AXES = {
    r"layers\.\d+\.attention\.w[qkv]\.weight|layers\.\d+\.feed_forward\.w[13]\.weight": 0,
    r"output\.weight": 0,
    r"layers\.\d+\.(attention\.wo|feed_forward\.w2)\.weight|tok_embeddings\.weight": 1,
}
# transformers' config of a LLaMA, of which a config.json may state only what differs.
_DEFAULTS = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "rms_norm_eps": 1e-6,
}
META_DROPPED = r"rope\.freqs"


def llama_rules(prefix: str = "") -> tuple[Rule, ...]:
    """transformers' names."""
    layer = f"{prefix}model.layers.{{i}}"
    projections = {
        "self_attn.q_proj": "attention/query",
        "self_attn.k_proj": "attention/key",
        "self_attn.v_proj": "attention/value",
        "self_attn.o_proj": "attention/out",
        "mlp.gate_proj": "mlp/gate",
        "mlp.up_proj": "mlp/fc1",
        "mlp.down_proj": "mlp/fc2",
    }
    return (
        Rule(f"{prefix}model.embed_tokens.weight", ("text/token_embedding/embedding",)),
        Rule(f"{layer}.input_layernorm.weight", (f"{_BLOCK}/norm1/scale",)),
        *(
            Rule(f"{layer}.{source}.weight", (f"{_BLOCK}/{target}/kernel",), LINEAR)
            for source, target in projections.items()
        ),
        Rule(f"{layer}.post_attention_layernorm.weight", (f"{_BLOCK}/norm2/scale",)),
        Rule(f"{prefix}model.norm.weight", ("text/final_norm/scale",)),
        Rule(f"{prefix}lm_head.weight", ("text/head/kernel",), LINEAR),
    )


def meta_rules(heads: int) -> tuple[Rule, ...]:
    """Meta's names. heads: number of heads; in queries and keys, their rows are in Meta's order."""
    layer, turned = "layers.{i}", _turned(heads)
    return (
        Rule("tok_embeddings.weight", ("text/token_embedding/embedding",)),
        Rule(f"{layer}.attention_norm.weight", (f"{_BLOCK}/norm1/scale",)),
        Rule(f"{layer}.attention.wq.weight", (f"{_BLOCK}/attention/query/kernel",), turned),
        Rule(f"{layer}.attention.wk.weight", (f"{_BLOCK}/attention/key/kernel",), turned),
        Rule(f"{layer}.attention.wv.weight", (f"{_BLOCK}/attention/value/kernel",), LINEAR),
        Rule(f"{layer}.attention.wo.weight", (f"{_BLOCK}/attention/out/kernel",), LINEAR),
        Rule(f"{layer}.feed_forward.w1.weight", (f"{_BLOCK}/mlp/gate/kernel",), LINEAR),
        Rule(f"{layer}.feed_forward.w3.weight", (f"{_BLOCK}/mlp/fc1/kernel",), LINEAR),
        Rule(f"{layer}.feed_forward.w2.weight", (f"{_BLOCK}/mlp/fc2/kernel",), LINEAR),
        Rule(f"{layer}.ffn_norm.weight", (f"{_BLOCK}/norm2/scale",)),
        Rule("norm.weight", ("text/final_norm/scale",)),
        Rule("output.weight", ("text/head/kernel",), LINEAR),
    )


def _turned(heads: int) -> Transform:
    """Meta rotates neighbouring rows 2j and 2j + 1 of a head, transformers j and j + d / 2."""

    def regroup(x: np.ndarray, pair: int, other: int) -> np.ndarray:
        if x.shape[0] % (2 * heads):
            raise ValueError(f"{heads} heads of pairs of rows expected")
        return x.reshape(heads, pair, other, x.shape[1]).swapaxes(1, 2).reshape(x.shape)

    def split(x: np.ndarray) -> list[np.ndarray]:
        return [regroup(x, x.shape[0] // heads // 2, 2).T]

    def join(parts: list[np.ndarray]) -> np.ndarray:
        return regroup(parts[0].T, 2, parts[0].shape[1] // heads // 2)

    return Transform("pairs of rows to halves, transpose", 2, split, join)


def is_meta(folder: Path) -> bool:
    """Whether a folder holds a LLaMA as Meta published it."""
    return (folder / "params.json").is_file() and not (folder / "config.json").exists()


def read_meta(folder: Path) -> tuple[dict[str, Lazy], dict[str, Any]]:
    """The tensors of Meta's shards, joined, and the content of params.json.

    Raises ConversionError: a shard is missing or of another model, or its norms are not the same.
    """
    params = read_json(folder / "params.json")
    files = sorted(path for path in folder.iterdir() if _SHARD.fullmatch(path.name))
    numbers = [int(_SHARD.fullmatch(path.name)[1]) for path in files]  # type: ignore[index]
    if not files or numbers != [*range(len(files))]:
        raise ConversionError(
            f"{folder}: holds {', '.join(path.name for path in files) or 'no shard'}; "
            "consolidated.00.pth and those that follow it are needed, without a gap"
        )
    shards = [read_checkpoint(path).tensors for path in files]
    for path, tensors in zip(files, shards, strict=True):
        if differing := sorted(tensors.keys() ^ shards[0].keys()):
            raise ConversionError(f"{path}: {differing[0]} is not in all shards")
    whole = {
        name: _joined(name, [Lazy.of(f"{folder}: {name}", each[name]) for each in shards])
        for name in shards[0]
    }
    _check_width(folder, whole, params, len(files))
    return whole, params


def _joined(name: str, parts: list[Lazy]) -> Lazy:
    axis = next((a for pattern, a in _AXES.items() if re.fullmatch(pattern, name)), None)
    if axis is not None:
        return concatenated(parts, axis)
    first = parts[0].values()
    if not all(np.array_equal(first, part.values()) for part in parts[1:]):
        raise ConversionError(f"{parts[0].origin}: is not the same in all shards")
    return parts[0]


def _check_width(
    folder: Path, tensors: Mapping[str, Lazy], params: Mapping[str, Any], shards: int
) -> None:
    embedding = tensors.get("tok_embeddings.weight")
    width = count(folder / "params.json", SimpleNamespace(**params), "dim")
    if embedding is not None and embedding.shape[-1] != width:
        raise ConversionError(
            f"{folder}: {shards} shard{'s' * (shards > 1)} make{'s' * (shards == 1)} embeddings of "
            f"{embedding.shape[-1]}, params.json says {width}: shards are missing, or of another "
            "model"
        )


def meta_spec(folder: Path, params: Mapping[str, Any], leaves: Mapping[str, Any]) -> LlamaSpec:
    """The spec that params.json gives. Raises ConversionError: something a spec can't say."""
    path, stated = folder / "params.json", SimpleNamespace(**params)
    heads = count(path, stated, "n_heads")
    _check_grouped(path, "n_kv_heads", params.get("n_kv_heads") or heads, heads)
    return LlamaSpec(
        context=2048 if params.get("norm_eps") == 1e-6 else 4096,
        vocab=common_size(leaves, "text/token_embedding/embedding", axis=0),
        width=count(path, stated, "dim"),
        layers=count(path, stated, "n_layers"),
        heads=heads,
        mlp_width=common_size(leaves, r"text/blocks_\d+/mlp/fc1/kernel"),
        norm_eps=fraction(path, stated, "norm_eps"),
        rotary_base=_base(path, params.get("rope_theta", 10000.0)),
    )


def _base(path: Path, value: Any) -> float:
    if type(value) not in (int, float) or not 1 <= value <= 1e9:
        raise ConversionError(f"{path}: rope_theta is {value!r}; a number from 1 to 1e9 is needed")
    return float(value)


def _check_grouped(path: Path, key: str, found: Any, heads: int) -> None:
    if found != heads:
        raise ConversionError(
            f"{path}: {key} is {found!r}, with {heads} heads: queries that share keys are not "
            "supported"
        )


def huggingface_spec(path: Path, config: Mapping[str, Any], leaves: Mapping[str, Any]) -> LlamaSpec:
    """The spec in the config.json of a LLaMA, or of a model that extends one.

    A config of the model type llama may leave out what is at transformers' defaults.

    Raises ConversionError: another kind of model, or something that a spec can't say.
    """
    if config.get("model_type") == "llama":
        config = _DEFAULTS | dict(config)
    stated = SimpleNamespace(**config)
    heads = count(path, stated, "num_attention_heads")
    _check_grouped(path, "num_key_value_heads", config.get("num_key_value_heads") or heads, heads)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise ConversionError(f"{path}: rope_parameters and rope_scaling must be objects")
    wanted = {
        "hidden_act": ("silu", config.get("hidden_act", "silu")),
        "rope_type": ("default", rope.get("rope_type", rope.get("type", "default"))),
        "tie_word_embeddings": (False, config.get("tie_word_embeddings", False)),
        "attention_bias": (False, config.get("attention_bias", False)),
        "mlp_bias": (False, config.get("mlp_bias", False)),
    }
    for key, (needed, found) in wanted.items():
        if found != needed:
            raise ConversionError(f"{path}: {key} is {found!r}, a LLaMA's is {needed!r}")
    base = _base(path, rope.get("rope_theta", config.get("rope_theta", 10000.0)))
    context = "max_sequence_length" if "max_sequence_length" in config else _CONTEXT
    return LlamaSpec(
        context=count(path, stated, context) if context in config else 2048,
        vocab=common_size(leaves, "text/token_embedding/embedding", axis=0),
        width=count(path, stated, "hidden_size"),
        layers=count(path, stated, "num_hidden_layers"),
        heads=heads,
        mlp_width=count(path, stated, "intermediate_size"),
        norm_eps=fraction(path, stated, "rms_norm_eps"),
        rotary_base=base,
    )


_CONTEXT = "max_position_embeddings"


def inferred_spec(
    leaves: Mapping[str, Any], settings: Mapping[str, Any], notes: list[str]
) -> LlamaSpec:
    """The spec of tensors that come without a config.

    Raises ConversionError: something that tensors can't tell is not set.
    """
    if "text.norm_eps" not in settings:
        raise ConversionError(
            "tensors can't tell a LLaMA's epsilon, and there is no config.json; --set "
            "text.norm_eps=1e-6 (LLaMA-1, Vicuna to v1.3) or 1e-5 (LLaMA-2, Vicuna v1.5)"
        )
    width = common_size(leaves, r"text/(blocks_\d+/norm\d|final_norm)/scale")
    return LlamaSpec(
        context=settings.get("text.context", 2048),
        vocab=common_size(leaves, "text/token_embedding/embedding", axis=0),
        width=width,
        layers=max(count_layers(leaves, "text/blocks_"), 1),
        heads=heads_of("text", width, _HEAD_WIDTH, settings, notes),
        mlp_width=common_size(leaves, r"text/blocks_\d+/mlp/fc1/kernel"),
        norm_eps=settings["text.norm_eps"],
    )


def llama_json(spec: LlamaSpec) -> dict[str, Any]:
    """config.json of transformers' LlamaForCausalLM."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": spec.vocab,
        "hidden_size": spec.width,
        "intermediate_size": spec.mlp_width,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.heads,
        "hidden_act": spec.activation,
        "max_position_embeddings": spec.context,
        "rms_norm_eps": spec.norm_eps,
        "rope_theta": spec.rotary_base,
        "bos_token_id": spec.start_id,
        "eos_token_id": spec.end_id,
        "tie_word_embeddings": False,
    }
