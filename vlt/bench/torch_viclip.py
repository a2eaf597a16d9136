"""ViCLIP's vision tower in torch, the peer of `vlt.bench`'s forward pass.

Written from the equations: scaled-dot-product attention over all tokens of the video, inference
mode, one thread per core. It computes every token of the last block.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import torch
from flax import traverse_util
from torch import nn
from torch.nn import functional

from vlt.convert.layouts.viclip import VICLIP
from vlt.convert.tables.table import to_tensors
from vlt.models.dual_encoder import DualEncoder
from vlt.models.spec import VisionSpec

_PREFIX = "vision_encoder."


def viclip_video_encoder(
    model: DualEncoder, params: Mapping[str, Any]
) -> Callable[[jax.Array], np.ndarray]:
    """uint8 video [b, t, H, W, 3] -> unit vectors [b, e], as the published model computes them.

    Raises:
        ValueError: the model has methods.
    """
    if model.methods:
        raise ValueError(f"the torch peer is ViCLIP alone; the config has methods={model.methods}")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    leaves = traverse_util.flatten_dict(jax.device_get(dict(params)), sep="/")
    tensors, _ = to_tensors(VICLIP.rules, leaves)
    tower = _Tower(model.spec.visual, model.spec.embed_dim).eval()
    tower.load_state_dict(
        {
            name.removeprefix(_PREFIX): torch.from_numpy(np.array(tensor))
            for name, tensor in tensors.items()
            if name.startswith(_PREFIX)
        }
    )
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (model.mean, model.std))

    @torch.inference_mode()
    def encode(video: jax.Array) -> np.ndarray:
        images = torch.from_numpy(np.array(video)).permute(0, 1, 4, 2, 3)
        return functional.normalize(tower((images / 255.0 - mean) / std), dim=-1).numpy()

    return encode


class _Block(nn.Module):
    def __init__(self, spec: VisionSpec) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = (nn.LayerNorm(spec.width, spec.norm_eps) for _ in range(2))
        self.attn = nn.MultiheadAttention(spec.width, spec.heads)  # only its weights are used
        layers = {"c_fc": (spec.width, spec.mlp_width), "c_proj": (spec.mlp_width, spec.width)}
        self.mlp = nn.ModuleDict({name: nn.Linear(*sizes) for name, sizes in layers.items()})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self._attend(self.ln_1(x))
        hidden = self.mlp["c_fc"](self.ln_2(x))
        return x + self.mlp["c_proj"](hidden * torch.sigmoid(1.702 * hidden))

    def _attend(self, x: torch.Tensor) -> torch.Tensor:
        qkv = functional.linear(x, self.attn.in_proj_weight, self.attn.in_proj_bias)
        heads = qkv.unflatten(-1, (3, self.attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(*heads)
        return self.attn.out_proj(y.transpose(1, 2).flatten(2))


class _Tower(nn.Module):
    """Normalised frames [b, t, 3, H, W] -> embeddings [b, e]."""

    def __init__(self, spec: VisionSpec, embed_dim: int) -> None:
        super().__init__()
        width, patch = spec.width, (1, spec.patch_size, spec.patch_size)
        self.conv1 = nn.Conv3d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(1 + spec.patches, width))
        frames = torch.empty(1, spec.temporal_frames, width)
        self.temporal_positional_embedding = nn.Parameter(frames)
        self.ln_pre, self.ln_post = (nn.LayerNorm(width, spec.norm_eps) for _ in range(2))
        blocks = nn.ModuleList(_Block(spec) for _ in range(spec.layers))
        self.transformer = nn.ModuleDict({"resblocks": blocks})
        self.proj = nn.Parameter(torch.empty(width, embed_dim))

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        patches = self.conv1(video.transpose(1, 2)).flatten(3).permute(0, 3, 2, 1)  # [b, n, t, d]
        rows = self.temporal_positional_embedding[:, : patches.shape[2]]
        if patches.shape[2] == 1:
            rows = self.temporal_positional_embedding.mean(1, keepdim=True)
        patches = patches + self.positional_embedding[1:, None] + rows
        cls = (self.class_embedding + self.positional_embedding[0]).expand(len(video), 1, -1)
        x = self.ln_pre(torch.cat([cls, patches.flatten(1, 2)], dim=1))
        for block in self.transformer["resblocks"].children():
            x = block(x)
        return self.ln_post(x[:, 0]) @ self.proj
