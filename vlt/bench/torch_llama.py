"""transformers' LLaMA in torch, with our weights."""

from typing import Any

import numpy as np
import torch
import transformers

from vlt.models.spec import LlamaSpec

HEADS = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "o_proj"}
MLP = {"gate": "gate_proj", "fc1": "up_proj", "fc2": "down_proj"}


class TorchDecoder:
    """Writes greedy answers of a fixed length with `generate` and its cache."""

    def __init__(self, spec: LlamaSpec, params: dict[str, Any], dtype: str):
        config = transformers.LlamaConfig(
            vocab_size=spec.vocab,
            hidden_size=spec.width,
            intermediate_size=spec.mlp_width,
            num_hidden_layers=spec.layers,
            num_attention_heads=spec.heads,
            rms_norm_eps=spec.norm_eps,
            max_position_embeddings=spec.context,
        )
        self._model = transformers.LlamaForCausalLM(config).eval()
        self._model.load_state_dict(_state(spec, params))
        self._model.to(getattr(torch, dtype))

    def generate(self, ids: np.ndarray, length: int) -> np.ndarray:
        """ids [b, n] -> [b, length]."""
        given = torch.tensor(ids).long()
        with torch.inference_mode():
            found = self._model.generate(
                given,
                attention_mask=torch.ones_like(given),
                max_new_tokens=length,
                min_new_tokens=length,
                do_sample=False,
                pad_token_id=0,
            )
        return found[:, ids.shape[1] :].numpy()


def _state(spec: LlamaSpec, params: dict[str, Any]) -> dict[str, torch.Tensor]:
    state = {
        "model.embed_tokens.weight": params["token_embedding"]["embedding"],
        "model.norm.weight": params["final_norm"]["scale"],
        "lm_head.weight": params["head"]["kernel"].T,
    }
    for layer in range(spec.layers):
        block, where = params[f"blocks_{layer}"], f"model.layers.{layer}"
        state[f"{where}.input_layernorm.weight"] = block["norm1"]["scale"]
        state[f"{where}.post_attention_layernorm.weight"] = block["norm2"]["scale"]
        for own, name in HEADS.items():
            state[f"{where}.self_attn.{name}.weight"] = block["attention"][own]["kernel"].T
        for own, name in MLP.items():
            state[f"{where}.mlp.{name}.weight"] = block["mlp"][own]["kernel"].T
    return {name: torch.tensor(np.asarray(x, np.float32)) for name, x in state.items()}
