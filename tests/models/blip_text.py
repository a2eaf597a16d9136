"""BLIP's text model, published and ours: a small size, and weights carried over."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import torch
from flax import traverse_util
from transformers import BlipTextConfig
from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel

from vlt.convert.layouts.blip import BLIP
from vlt.convert.tables.table import to_leaves
from vlt.models.captioner import Captioner
from vlt.models.spec import BertSpec, BlipSpec, VisionSpec

# The epsilon is large enough that using another one would show.
SMALL = BertSpec(
    context=24,
    vocab=61,
    width=32,
    layers=2,
    heads=4,
    mlp_width=48,
    source_width=20,
    decode_id=59,
    encode_id=60,
    end_id=7,
    norm_eps=1e-3,
)


def text_params(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Our parameter tree of a published text model's tensors, without tied and derived ones."""
    named = {f"text_decoder.{name}": np.asarray(tensor) for name, tensor in tensors.items()}
    family = BLIP.for_kind("captioner")
    placed = to_leaves(family.rules, named, family.canonical, family.dropped, "")
    return traverse_util.unflatten_dict(placed.leaves, sep="/")["text"]


def published(spec: BertSpec, seed: int = 0) -> BlipTextLMHeadModel:
    """transformers' decoder with random weights."""
    torch.manual_seed(seed)
    config = BlipTextConfig(
        vocab_size=spec.vocab,
        hidden_size=spec.width,
        encoder_hidden_size=spec.source_width,
        intermediate_size=spec.mlp_width,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        max_position_embeddings=spec.context,
        hidden_act=spec.activation,
        layer_norm_eps=spec.norm_eps,
        bos_token_id=spec.decode_id,
        eos_token_id=spec.end_id,
        sep_token_id=spec.end_id,
        pad_token_id=0,
        is_decoder=True,
        attn_implementation="eager",
    )
    model = BlipTextLMHeadModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("LayerNorm.weight"):
                parameter.normal_(1, 0.2)
            elif "embeddings" in name:
                parameter.normal_(0, 0.05)
            else:
                parameter.normal_(0, 0.3)
    return model


def carried(model: torch.nn.Module) -> dict[str, Any]:
    """Our parameter tree of a torch model."""
    return text_params({name: p.detach() for name, p in model.named_parameters()})


def captioner(text: BertSpec) -> Captioner:
    """A captioner with a minimal vision tower, for its `decode`."""
    visual = VisionSpec(16, 8, text.source_width, 1, 2, 8)
    return Captioner(BlipSpec("captioner", visual, text))


def sources(spec: BertSpec, batch: int, tokens: int = 5, seed: int = 1) -> np.ndarray:
    """Random video tokens, float32 [b, m, d]."""
    shape = (batch, tokens, spec.source_width)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def texts(spec: BertSpec, batch: int, length: int, seed: int = 2) -> np.ndarray:
    """Random words, int32 [b, l], without padding."""
    words = np.random.default_rng(seed).integers(1, spec.vocab, (batch, length))
    return words.astype(np.int32)


def equal(ours: Any, theirs: torch.Tensor, atol: float) -> None:
    """Asserts that a JAX array equals a torch tensor, up to `atol`."""
    theirs = theirs.detach().numpy()
    np.testing.assert_allclose(jax.device_get(ours).reshape(theirs.shape), theirs, 0, atol)
