"""The torch peer: transformers' CLIP vision tower with our weights, and token merging on it.

Merging is written from its description alone, the way torch users write it: gather, then
scatter-add. The last block computes all of its tokens, as in transformers.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
from flax import traverse_util
from torch.nn import functional
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from vlt.convert.layouts.clip import CLIP_HF
from vlt.convert.tables.table import to_tensors
from vlt.merging.tempme import TempMe
from vlt.merging.tome import ToMe
from vlt.models.dual_encoder import DualEncoder
from vlt.models.points import Method
from vlt.models.spec import DualEncoderSpec

POSITIONS = "clip_position"


class Clips(NamedTuple):
    """Tokens x [groups, n, d], CLS tokens first; size [groups, n] or None; cls: number of CLS."""

    x: torch.Tensor
    size: torch.Tensor | None = None
    cls: int = 1


def clip_video_encoder(
    model: DualEncoder, params: Mapping[str, Any]
) -> Callable[[jax.Array], np.ndarray]:
    """uint8 video [b, t, H, W, 3] -> unit vectors [b, e]: mean of unit frame embeddings.

    Inference mode, scaled-dot-product attention, one thread per core.

    Raises:
        ValueError: methods other than one of (proportional) ToMe and TempMe, or frame embeddings
            that are not of unit length.
    """
    merging = model.methods[0] if model.methods else None
    if not model.frame_norm or len(model.methods) > 1 or not _known(merging):
        raise ValueError(
            f"the torch peer is CLIP with unit frame embeddings (frame_norm), with ToMe, TempMe or "
            f"neither; the config has frame_norm={model.frame_norm}, methods={model.methods}"
        )
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    leaves = {
        path: np.array(leaf)
        for path, leaf in traverse_util.flatten_dict(dict(params), sep="/").items()
        if path.startswith("visual/")
    }
    positions = {
        int(path.split("/")[1].removeprefix("blocks_")): torch.from_numpy(leaves.pop(path))
        for path in [path for path in leaves if path.endswith(POSITIONS)]
    }
    clip = _clip(model.spec, leaves)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (model.mean, model.std))

    @torch.inference_mode()
    def encode(video: jax.Array) -> np.ndarray:
        images = torch.from_numpy(np.array(video)).flatten(0, 1).permute(0, 3, 1, 2)
        pixels = (images / 255.0 - mean) / std
        if isinstance(merging, (ToMe, TempMe)):
            embeddings = _merged(clip, pixels, merging, positions, video.shape[1])
        else:
            embeddings = clip(pixel_values=pixels).image_embeds
        frames = functional.normalize(embeddings, dim=-1).view(*video.shape[:2], -1)
        return functional.normalize(frames.mean(1), dim=-1).numpy()

    return encode


def _known(merging: Method | None) -> bool:
    return (
        merging is None
        or isinstance(merging, TempMe)
        or (isinstance(merging, ToMe) and merging.proportional)
    )


def _clip(spec: DualEncoderSpec, leaves: dict[str, np.ndarray]) -> CLIPVisionModelWithProjection:
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
    tensors, _ = to_tensors(CLIP_HF.rules, leaves)
    model.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in tensors.items()})
    return model


def _merged(
    clip: CLIPVisionModelWithProjection,
    pixels: torch.Tensor,
    merging: ToMe | TempMe,
    positions: Mapping[int, torch.Tensor],
    frames: int,
) -> torch.Tensor:
    """Frames [b * t, 3, H, W] -> embeddings of their CLS tokens [b * t, e]."""
    vision = clip.vision_model
    tokens = Clips(vision.pre_layrnorm(vision.embeddings(pixels)))
    for index, layer in enumerate(vision.encoder.layers):
        joined, cross, intra = _plan(merging, index)
        if cross is not None:
            tokens = _across_clips(tokens, joined, positions.get(index), cross)
        y, keys = _attention(layer.self_attn, layer.layer_norm1(tokens.x), tokens.size)
        tokens = tokens._replace(x=tokens.x + y)
        tokens = merge(tokens, keys, _removed(tokens, intra))
        x = tokens.x + layer.mlp(layer.layer_norm2(tokens.x))
        tokens = tokens._replace(x=x)
    cls = tokens.x[:, : tokens.cls].reshape(-1, tokens.x.shape[-1])
    return clip.visual_projection(vision.post_layernorm(cls))


def _plan(merging: ToMe | TempMe, layer: int) -> tuple[int, float | None, float]:
    """How many clips join, and what merges across and within clips: a share, or a count from 1."""
    if isinstance(merging, ToMe) or layer < merging.layers[0]:
        return 1, None, merging.r
    intra = (100 - merging.keep_intra) / 100
    if layer not in merging.layers:
        return 1, None, intra
    joined = merging.join[merging.layers.index(layer)]
    return joined, (100 - merging.keep_cross) / 100, intra


def _removed(tokens: Clips, amount: float) -> int:
    if amount >= 1:
        return int(amount)
    count = tokens.x.shape[1]
    return min((count - tokens.cls) // 2, int(count * amount))


def _across_clips(tokens: Clips, joined: int, position: torch.Tensor | None, share: float) -> Clips:
    """Joins neighbouring clips and merges; matching does not see the clips' positions."""
    metric = _join(tokens.x, joined, tokens.cls)
    x = metric
    if position is not None:
        clips = tokens.x.unflatten(0, (-1, len(position))) + position[:, None]
        x = _join(clips.flatten(0, 1), joined, tokens.cls)
    size = None if tokens.size is None else _join(tokens.size, joined, tokens.cls)
    tokens = Clips(x, size, tokens.cls * joined)
    return merge(tokens, metric, _removed(tokens, share))


def _join(x: torch.Tensor, joined: int, cls: int) -> torch.Tensor:
    """[groups, n, ...] -> [groups / joined, joined * n, ...], all CLS tokens first."""
    clips = x.unflatten(0, (-1, joined))
    return torch.cat([clips[:, :, :cls].flatten(1, 2), clips[:, :, cls:].flatten(1, 2)], dim=1)


def _attention(
    layer: Any, x: torch.Tensor, size: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Proportional attention, and keys averaged over heads [groups, n, d / h]."""

    def heads(y: torch.Tensor) -> torch.Tensor:
        return y.unflatten(-1, (-1, layer.head_dim)).transpose(1, 2)

    query, key, value = heads(layer.q_proj(x)), heads(layer.k_proj(x)), heads(layer.v_proj(x))
    bias = None if size is None else size.log()[:, None, None, :]
    y = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    return layer.out_proj(y.transpose(1, 2).flatten(2)), key.mean(1)


def merge(tokens: Clips, metric: torch.Tensor, r: int) -> Clips:
    """Merges the r patches of one half most like a patch of the other half into that patch."""
    if r == 0:
        return tokens
    cls, first = tokens.cls, tokens.cls % 2
    unit = metric[:, cls:] / metric[:, cls:].norm(dim=-1, keepdim=True)
    scores = unit[:, first::2] @ unit[:, 1 - first :: 2].transpose(-1, -2)
    best, into = scores.max(-1)
    order = best.argsort(dim=-1, descending=True, stable=True)
    gone, kept = order[:, :r], order[:, r:].sort(dim=-1).values
    into = into.gather(1, gone)

    def add(x: torch.Tensor) -> torch.Tensor:
        def pick(rows: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
            return rows.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))

        sources, others = x[:, cls:][:, first::2], x[:, cls:][:, 1 - first :: 2]
        where = into[..., None].expand(-1, -1, x.shape[-1])
        others = others.scatter_add(1, where, pick(sources, gone))
        return torch.cat([x[:, :cls], pick(sources, kept), others], dim=1)

    size = tokens.x.new_ones(tokens.x.shape[:2]) if tokens.size is None else tokens.size
    total = add(size[..., None])
    return Clips(add(tokens.x * size[..., None]) / total, total[..., 0], cls)
