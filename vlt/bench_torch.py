"""The torch peer of `vlt.bench`: transformers' CLIP vision tower with our weights."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import torch
from flax import traverse_util
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from vlt.convert.families import CLIP_HF
from vlt.convert.table import to_tensors
from vlt.models.dual_encoder import CLIP_MEAN, CLIP_STD
from vlt.models.spec import DualEncoderSpec


def clip_video_encoder(
    spec: DualEncoderSpec, params: Mapping[str, Any]
) -> Callable[[jax.Array], np.ndarray]:
    """uint8 video [b, t, H, W, 3] -> unit vectors [b, e]: mean of unit frame embeddings.

    Inference mode, scaled-dot-product attention, as many threads as torch chooses.
    """
    visual = spec.visual
    config = CLIPVisionConfig(
        hidden_size=visual.width,
        intermediate_size=visual.mlp_width,
        num_hidden_layers=visual.layers,
        num_attention_heads=visual.heads,
        image_size=visual.image_size,
        patch_size=visual.patch_size,
        projection_dim=spec.embed_dim,
        hidden_act=visual.activation,
        layer_norm_eps=visual.norm_eps,
    )
    model = CLIPVisionModelWithProjection(config).eval()
    model.set_attn_implementation("sdpa")
    leaves = {
        path: np.asarray(leaf)
        for path, leaf in traverse_util.flatten_dict(dict(params), sep="/").items()
        if path.startswith("visual/") and "btadapter" not in path
    }
    tensors, _ = to_tensors(CLIP_HF.rules, leaves)
    state = {name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()}
    model.load_state_dict(state)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (CLIP_MEAN, CLIP_STD))

    @torch.inference_mode()
    def encode(video: jax.Array) -> np.ndarray:
        images = torch.from_numpy(np.array(video)).flatten(0, 1).permute(0, 3, 1, 2)
        pixels = (images / 255.0 - mean) / std
        embeddings = model(pixel_values=pixels).image_embeds
        frames = torch.nn.functional.normalize(embeddings, dim=-1).view(*video.shape[:2], -1)
        return torch.nn.functional.normalize(frames.mean(1), dim=-1).numpy()

    return encode
