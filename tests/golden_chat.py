"""Golden chat models: published tensors as parameters, sizes, and the numbers they came with."""

import json
from typing import Any

import numpy as np
from flax import traverse_util
from safetensors.numpy import load_file

from vlt.model_io.build import make_model
from vlt.models.chat import ChatModel
from vlt.models.spec import ChatSpec, LlamaSpec, QFormerSpec, VisionSpec

CLIP_ATTENTION = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}


class Tensors:
    """Tensors of a file under a prefix, read as leaves of a tree."""

    def __init__(self, tensors: dict[str, np.ndarray], prefix: str = ""):
        self.tensors, self.prefix = tensors, prefix

    def at(self, prefix: str) -> "Tensors":
        return Tensors(self.tensors, self.prefix + prefix)

    def __call__(self, name: str) -> np.ndarray:
        return self.tensors[self.prefix + name]

    def __contains__(self, name: str) -> bool:
        return self.prefix + name in self.tensors

    def dense(self, name: str) -> dict[str, np.ndarray]:
        found = {"kernel": self(f"{name}.weight").T}
        return found | ({"bias": self(f"{name}.bias")} if f"{name}.bias" in self else {})

    def norm(self, name: str) -> dict[str, np.ndarray]:
        found = {"scale": self(f"{name}.weight")}
        return found | ({"bias": self(f"{name}.bias")} if f"{name}.bias" in self else {})

    def mlp(self, names: dict[str, str]) -> dict[str, Any]:
        return {name: self.dense(published) for name, published in names.items()}


def clip_block(t: Tensors, mlp: bool = True) -> dict[str, Any]:
    block = {
        "norm1": t.norm("layer_norm1"),
        "attention": {own: t.dense(f"self_attn.{name}") for name, own in CLIP_ATTENTION.items()},
    }
    if mlp:
        block |= {
            "norm2": t.norm("layer_norm2"),
            "mlp": t.mlp({"fc1": "mlp.fc1", "fc2": "mlp.fc2"}),
        }
    return block


def eva_block(t: Tensors, mlp: bool = True) -> dict[str, Any]:
    query, key, value = np.split(t("attn.qkv.weight"), 3)
    block = {
        "norm1": t.norm("norm1"),
        "attention": {
            "query": {"kernel": query.T, "bias": t("attn.q_bias")},
            "key": {"kernel": key.T},
            "value": {"kernel": value.T, "bias": t("attn.v_bias")},
            "out": t.dense("attn.proj"),
        },
    }
    if mlp:
        block |= {"norm2": t.norm("norm2"), "mlp": t.mlp({"fc1": "mlp.fc1", "fc2": "mlp.fc2"})}
    return block


def temporal(t: Tensors, block: Any) -> dict[str, Any]:
    found = block(t, mlp=False)
    return {
        "norm": found["norm1"],
        "attention": found["attention"],
        "projection": t.dense("temporal_fc"),
    }


def branch(t: Tensors, block: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """names: those of the spatial and temporal layers, the CLS token and the frame table."""
    spatial, temporal_, cls, time = names
    layers = {f"spatial_{j}": block(t.at(f"{spatial}.{j}.")) for j in range(4)}
    layers |= {f"temporal_{j}": temporal(t.at(f"{temporal_}.{j}."), block) for j in range(4)}
    return layers | {"class_token": t(cls).reshape(-1), "time_embedding": t(time)}


def clip_tower(t: Tensors, layers: int) -> dict[str, Any]:
    names = ("S_layers", "T_layers", "cls_token", "time_embed.weight")
    gates = {"final_gate": t("balance1"), "layer_gate": t("balance2")}
    return {
        "class_embedding": t("class_embedding"),
        "patch_embedding": {"kernel": t("patch_embedding.weight").transpose(2, 3, 1, 0)},
        "position_embedding": t("position_embedding.weight"),
        "pre_norm": t.norm("pre_layrnorm"),
        "post_norm": t.norm("post_layernorm"),
        **{f"blocks_{i}": clip_block(t.at(f"layers.{i}.")) for i in range(layers)},
        "btadapter": branch(t, clip_block, tuple(f"btadapter_{name}" for name in names)) | gates,
    }


def eva_tower(t: Tensors, layers: int) -> dict[str, Any]:
    eva, names = t.at("visual_encoder."), ("S", "T", "cls", "position.weight")
    patches = {
        "kernel": eva("patch_embed.proj.weight").transpose(2, 3, 1, 0),
        "bias": eva("patch_embed.proj.bias"),
    }
    return {
        "class_embedding": eva("cls_token").reshape(-1),
        "patch_embedding": patches,
        "position_embedding": eva("pos_embed")[0],
        **{f"blocks_{i}": eva_block(eva.at(f"blocks.{i}.")) for i in range(layers)},
        "btadapter": branch(t, eva_block, tuple(f"btadapter_{name}" for name in names)),
    }


def llama(t: Tensors, layers: int) -> dict[str, Any]:
    found = {
        "token_embedding": {"embedding": t("model.embed_tokens.weight")},
        "final_norm": t.norm("model.norm"),
        "head": t.dense("lm_head"),
    }
    heads = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "o_proj"}
    mlp = {"gate": "mlp.gate_proj", "fc1": "mlp.up_proj", "fc2": "mlp.down_proj"}
    for i in range(layers):
        block = t.at(f"model.layers.{i}.")
        found[f"blocks_{i}"] = {
            "norm1": block.norm("input_layernorm"),
            "norm2": block.norm("post_attention_layernorm"),
            "attention": {own: block.dense(f"self_attn.{name}") for own, name in heads.items()},
            "mlp": block.mlp(mlp),
        }
    return found


def attention(t: Tensors, name: str, own: str) -> dict[str, Any]:
    heads = {each: t.dense(f"{name}.self.{each}") for each in ("query", "key", "value")}
    return {
        own: heads | {"out": t.dense(f"{name}.output.dense")},
        f"{own}_norm": t.norm(f"{name}.output.LayerNorm"),
    }


def qformer(t: Tensors, spec: QFormerSpec) -> dict[str, Any]:
    found: dict[str, Any] = {"embedding_norm": t.norm("embeddings.LayerNorm")}
    if spec.vocab:
        found["token_embedding"] = {"embedding": t("embeddings.word_embeddings.weight")}
        found["position_embedding"] = t("embeddings.position_embeddings.weight")
    for i in range(spec.layers):
        layer = t.at(f"encoder.layer.{i}.")
        block = attention(layer, "attention", "attention")
        if i % spec.cross_every == 0:
            block |= attention(layer, "crossattention", "cross_attention")
        for own, suffix in (("mlp_queries", "_query"), ("mlp", ""))[: 1 + bool(spec.vocab)]:
            names = {"fc1": f"intermediate{suffix}.dense", "fc2": f"output{suffix}.dense"}
            block |= {own: layer.mlp(names), f"{own}_norm": layer.norm(f"output{suffix}.LayerNorm")}
        found[f"blocks_{i}"] = block
    return found


def connector(t: Tensors, spec: ChatSpec, projection: str) -> dict[str, Any]:
    found: dict[str, Any] = {"projection": t.dense(projection)}
    if spec.qformer is not None:
        found |= {
            "norm": t.norm("ln_vision"),
            "queries": t("query_tokens")[0],
            "qformer": qformer(t.at("Qformer.bert."), spec.qformer),
        }
    return found


def spec_of(name: str, config: dict[str, Any]) -> ChatSpec:
    vision, text = config["vision"], config["llama"]
    sizes = (56, 14, vision["hidden_size"], vision["num_hidden_layers"], 4)
    decoder = LlamaSpec(2048, text["vocab_size"], text["hidden_size"], 3, 4, 176)
    if name == "llava":
        return ChatSpec(VisionSpec(*sizes, vision["intermediate_size"]), decoder)
    eva = VisionSpec(
        *sizes,
        vision["mlp_hidden"],
        "gelu",
        1e-6,
        pre_norm=False,
        patch_bias=True,
        key_bias=False,
    )
    q = config["qformer"]
    instruction = (q.get("vocab_size", 0), 64 * ("vocab_size" in q))
    small = QFormerSpec(8, 32, 4, 4, 64, vision["hidden_size"], 2, *instruction)
    return ChatSpec(eva, decoder, "qformer", small, read=1, cls="first")


PARTS = {  # prefix of the language model, projection, options of the branch
    "llava": ("", "model.mm_projector", {}),
    "minigpt4": ("llama_model.", "llama_proj", {"gates": "none"}),
    "instructblip": ("llm_model.", "llm_proj", {"gates": "none"}),
}


class Golden:
    """One of the golden models: `spec`, `params`, `numbers` by name, and modules."""

    def __init__(self, folder, name: str):
        self.name = name
        self.numbers = np.load(folder / f"{name}_small.npz")
        self.config = json.loads((folder / f"{name}_small_config.json").read_text())
        self.spec = spec_of(name, self.config)
        self.branch = PARTS[name][2]
        self.tensors = load_file(folder / f"{name}_small.safetensors")
        self.params = self._tree(self.tensors)

    def _tree(self, tensors: dict[str, np.ndarray]) -> dict[str, Any]:
        language, projection, _ = PARTS[self.name]
        t, layers = Tensors(tensors), self.spec.visual.layers
        clip = self.name == "llava"
        tower = clip_tower(t.at("vision_tower."), layers) if clip else eva_tower(t, layers)
        return {
            "visual": tower,
            "connector": connector(t, self.spec, projection),
            "text": llama(t.at(language), 3),
        }

    def published(self) -> dict[str, str]:
        """The tensor that each leaf is, or is a part of, by the leaf's path."""
        names = list(self.tensors)
        numbered = {name: np.full(x.shape, i) for i, (name, x) in enumerate(self.tensors.items())}
        leaves = traverse_util.flatten_dict(self._tree(numbered), sep="/")
        return {path: names[int(leaf.flat[0])] for path, leaf in leaves.items()}

    def model(
        self, spec: ChatSpec | None = None, adapted: bool = True, **options: Any
    ) -> ChatModel:
        """The module, with the branch if `adapted`; by default the branch drops no paths."""
        options = {"drop_path": 0.0, "alignment": "none"} | self.branch | options
        return make_model(spec or self.spec, {"btadapter": options} if adapted else {})

    def plain(self) -> dict[str, Any]:
        """Parameters without the branch."""
        leaves = traverse_util.flatten_dict(self.params)
        left = {path: leaf for path, leaf in leaves.items() if "btadapter" not in path}
        return traverse_util.unflatten_dict(left)


def channels_last(video: np.ndarray) -> np.ndarray:
    """[t, 3, H, W] of scaled integers -> float32 [t, H, W, 3]."""
    return np.moveaxis(video.astype(np.float32), -3, -1)
