"""TESTA: frames, then patches within frames, are aggregated (Ren et al., Findings of EMNLP 2023).

Published on divided space-time attention: every block has temporal attention, frame aggregation,
spatial attention and patch aggregation. TempMe's tables run it on CLIP without saying how. It is
inferred that the 0.59M trained parameters are LoRA of rank 8 in both towers and in the temporal
attention of four vision layers (589,824). Which layers, and how much each merges, is not known: the
defaults cost 40.45 GMACs, the tables print 40.6.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from vlt.merging.matching import (
    PRECISION,
    Matching,
    check_r,
    mean_keys,
    merge,
    merge_patches,
)
from vlt.models.attention import Attention
from vlt.models.layers import LayerNorm
from vlt.models.options import check_layers
from vlt.models.points import BlockScope, Method
from vlt.models.spec import Spec
from vlt.models.tokens import AttentionOutput, Pattern, Tokens
from vlt.models.vit import normalize

PROJECTIONS = ("query", "key", "value", "out")


@dataclasses.dataclass(frozen=True)
class TESTA(Method):
    """Leaves: `visual/blocks_{i}/testa` and `testa_norm`, for i in `layers`.

    Temporal attention starts from the block's own norm, queries, keys and output, and from values
    of zero, so the model starts as CLIP. The block's methods act on it too: with `lora`, its
    projections have updates of their own and may stay frozen.

    layers: blocks with temporal attention and frame aggregation, from 0. frame_r: frames that each
        of them merges. r: patches that every block merges in each frame. Attention does not weight
        tokens by size, as published. The embedding is the plain mean over the frames that are left.
    """

    name: ClassVar[str] = "testa"
    needs: ClassVar[frozenset[str]] = frozenset({"frame_groups", "attended_tokens"})
    breaks: ClassVar[frozenset[str]] = frozenset({"attended_tokens", "every_frame", "patch_places"})

    layers: tuple[int, ...] = (7, 8, 9, 10)
    frame_r: int = 1
    r: int = 2

    def check(self, spec: Spec, frames: int) -> None:
        """Raises ValueError for layers the tower does not have, and where more than half of the
        frames or patches of a layer would go."""
        check_layers("testa.layers", self.layers, spec.visual.layers)
        check_r("testa", self.r, spec.visual, spec.visual.layers)
        if self.frame_r < 0:
            raise ValueError(f"testa.frame_r must be >= 0, got {self.frame_r}")
        for layer in self.layers:
            if self.frame_r > frames // 2:
                raise ValueError(
                    f"testa.frame_r={self.frame_r}: block {layer} has {frames} frames, of which at "
                    f"most {frames // 2} merge"
                )
            frames -= self.frame_r

    def before_attention(self, block: BlockScope, tokens: Tokens) -> Tokens:
        """Point 1: attention over the frames at each patch, then whole frames merge."""
        if block.layer not in self.layers:
            return tokens
        patches = tokens.x[:, :, tokens.protected :].swapaxes(1, 2)
        norm = LayerNorm(epsilon=block.norm_eps, dtype=block.dtype, name="testa_norm")
        attention = Attention(block.heads, block.key_bias, block.active, block.dtype, name="testa")
        normed = norm(patches)
        y, attended = attention(Pattern(normed, normed))
        x = tokens.x.at[:, :, tokens.protected :].add(y.swapaxes(1, 2))
        return merge_frames(tokens.replace(x=x), mean_keys(attended), self.frame_r)

    def after_attention(
        self, block: BlockScope, tokens: Tokens, attended: AttentionOutput
    ) -> Tokens:
        """Point 6: patches merge within their frame."""
        return merge_patches(tokens, mean_keys(attended), self.r)

    def init_from_backbone(self, params: dict, spec: Spec) -> dict:
        """Copies of each block's norm, queries, keys and output; values and output bias are 0."""
        visual = dict(params["visual"])
        for layer in self.layers:
            block = visual[f"blocks_{layer}"]
            source, temporal = block["attention"], block["testa"]
            # Leaves of other methods stay.
            copied = {name: temporal[name] | _plain(source[name]) for name in PROJECTIONS}
            copied["value"] |= jax.tree.map(jnp.zeros_like, _plain(source["value"]))
            copied["out"]["bias"] = jnp.zeros_like(source["out"]["bias"])
            visual[f"blocks_{layer}"] = block | {
                "testa": temporal | copied,
                "testa_norm": block["norm1"],
            }
        return params | {"visual": visual}


METHOD = TESTA


def merge_frames(tokens: Tokens, keys: jax.Array, r: int) -> Tokens:
    """Of every second frame, merges the r that are most like one of the others into that one.

    keys: [b, n, t, e] of the patches of each frame. A frame's destination is the one that most of
    its patches choose. Its similarity is the least of its patches', which is what the published
    code's mode over distinct numbers yields. Kept frames come first, then all destinations; CLS
    tokens merge too.
    """
    if r == 0:
        return tokens
    unit = normalize(jax.lax.stop_gradient(keys).astype(jnp.float32))
    scores = jnp.einsum("bnse,bnte->bnst", unit[:, :, ::2], unit[:, :, 1::2], precision=PRECISION)
    votes = jax.nn.one_hot(scores.argmax(-1), scores.shape[-1]).sum(1)
    order = jnp.argsort(-scores.max(-1).min(1))
    into = jnp.take_along_axis(votes.argmax(-1), order[:, :r], axis=-1)

    def every(index: jax.Array) -> jax.Array:
        return jnp.broadcast_to(index[:, None], (len(index), tokens.x.shape[2], index.shape[1]))

    kept, gone = jnp.sort(order[:, r:]), order[:, :r]
    # For each patch, the frames are the tokens of a group.
    turned = tokens.rearrange(_turn, cls=0, protected=0)
    merged = merge(turned, Matching(every(kept), every(gone), every(into), first=0))
    return merged.rearrange(_turn, cls=tokens.cls, protected=tokens.protected)


def _plain(dense: dict) -> dict:
    """The leaves that a layer has without methods."""
    return {key: dense[key] for key in ("kernel", "bias") if key in dense}


def _turn(x: jax.Array) -> jax.Array:
    return x.swapaxes(1, 2)
