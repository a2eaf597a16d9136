"""The language models of the golden chat models, alone."""

import json
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from safetensors.numpy import load_file

from vlt.models.llama import Llama
from vlt.models.spec import LlamaSpec

PREFIXES = {"llava": "", "minigpt4": "llama_model.", "instructblip": "llm_model."}
DENSE = {
    "self_attn.q_proj": "attention/query",
    "self_attn.k_proj": "attention/key",
    "self_attn.v_proj": "attention/value",
    "self_attn.o_proj": "attention/out",
    "mlp.gate_proj": "mlp/gate",
    "mlp.up_proj": "mlp/fc1",
    "mlp.down_proj": "mlp/fc2",
}


class Reader(nn.Module):
    """A language model with the methods of a chat model that a search calls."""

    spec: LlamaSpec
    dtype: Any = np.float32

    def setup(self):
        self.text = Llama(self.spec, dtype=self.dtype)

    def embed(self, ids):
        return self.text.embed(ids)

    def decode(self, x, places, valid=None, cache=None, index=None, remember=False):
        states, cache = self.text(x, places, valid, cache, index, remember)
        return self.text.logits(states[:, :, -1:]), cache


def golden_llama(shared, name):
    """(module, parameters, stored arrays) of a golden chat model's language model."""
    folder = shared / "golden" / "chat"
    sizes = json.loads((folder / f"{name}_small_config.json").read_text())["llama"]
    spec = LlamaSpec(
        sizes["max_position_embeddings"],
        sizes["vocab_size"],
        sizes["hidden_size"],
        sizes["num_hidden_layers"],
        sizes["num_attention_heads"],
        sizes["intermediate_size"],
        sizes["rms_norm_eps"],
    )
    tensors = load_file(folder / f"{name}_small.safetensors")
    params = llama_params(tensors, PREFIXES[name], spec.layers)
    return Reader(spec), {"text": params}, np.load(folder / f"{name}_small.npz")


def llama_params(tensors, prefix, layers):
    """Parameters from published names."""

    def of(name):
        return tensors[f"{prefix}{name}.weight"]

    params = {
        "token_embedding": {"embedding": of("model.embed_tokens")},
        "final_norm": {"scale": of("model.norm")},
        "head": {"kernel": of("lm_head").T},
    }
    for layer in range(layers):
        where = f"model.layers.{layer}."
        block = {
            "norm1": {"scale": of(f"{where}input_layernorm")},
            "norm2": {"scale": of(f"{where}post_attention_layernorm")},
            "attention": {},
            "mlp": {},
        }
        for theirs, ours in DENSE.items():
            part, name = ours.split("/")
            block[part][name] = {"kernel": of(where + theirs).T}
        params[f"blocks_{layer}"] = block
    return jax.tree.map(np.asarray, params)
