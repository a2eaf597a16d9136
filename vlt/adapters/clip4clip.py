"""CLIP4Clip's sequential heads on frame embeddings (Luo et al., arXiv:2104.08860, Section 3.3).

The parameter-free head, mean pooling, is `model.frame_norm=True` and needs no method. The
sequential heads come before it and need it too: every frame is scaled to unit norm, then the mean
is taken. The tight head scores a video and a text together.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlt.adapters.lstm import LSTM
from vlt.models.activations import ACTIVATIONS
from vlt.models.block import Block
from vlt.models.layers import LayerNorm
from vlt.models.options import require_some
from vlt.models.points import Embedded, Method, Scope, TowerScope, copy_leaves
from vlt.models.spec import BertSpec, Spec
from vlt.models.tokens import Tokens

HEADERS = ("seqTransf", "seqLSTM", "tightTransf")
HEAD_WIDTH = 64
NORM_EPS = 1e-12  # as in the published head; CLIP has 1e-5


@dataclasses.dataclass(frozen=True)
class CLIP4Clip(Method):
    """f + sequence model(f) for frame embeddings f [b, t, e], leaves visual/clip4clip/; or, with
    `tightTransf`, scores of texts with f [v, t, e], leaves clip4clip/.

    sim_header: `seqTransf`, transformer blocks over all frames with learned positions; `seqLSTM`,
        one layer forwards in time; `tightTransf`, such blocks over a text's embedding and the
        frames of a video after it, and an MLP on the text's output. (The published flag's names.)
        For the last, the paper has token types, its code has none; its scores are published without
        a temperature, `task.scale=1.0`.
    layers, max_frames: number of blocks, and rows of the position table, of the transformers, whose
        weights start as copies of the text tower's first ones.

    Raises:
        ValueError: unknown sim_header.
    """

    name: ClassVar[str] = "clip4clip"
    needs: ClassVar[frozenset[str]] = frozenset({"frame_groups", "joint_space"})

    sim_header: str = "seqTransf"
    layers: int = 4
    max_frames: int = 77

    def __post_init__(self) -> None:
        require_some("clip4clip", "sim_header", (self.sim_header,), HEADERS)

    def needs_here(self) -> frozenset[str]:
        """Adds `pair_scores` for the tight head."""
        return self.needs | ({"pair_scores"} if self.tight else set())

    def breaks_here(self) -> frozenset[str]:
        """The tight head rules out other methods that score pairs."""
        return self.breaks | ({"pair_scores"} if self.tight else set())

    @property
    def tight(self) -> bool:
        """Whether a video and a text are scored together."""
        return self.sim_header == "tightTransf"

    def check(self, spec: Spec, frames: int) -> None:
        """Raises ValueError where the text tower's blocks or positions cannot be copied, and for
        more frames than positions."""
        text, header = spec.text, f"clip4clip.sim_header={self.sim_header!r}"
        if self.sim_header == "seqLSTM":
            return
        if isinstance(text, BertSpec):
            raise ValueError(
                f"{header} copies layers of CLIP's text tower, and BLIP's text model has others; "
                "use 'seqLSTM'"
            )
        if (text.width, text.heads) != (spec.embed_dim, spec.embed_dim // HEAD_WIDTH):
            raise ValueError(
                f"{header} copies layers of the text tower, which has "
                f"width {text.width} and {text.heads} heads, but frame embeddings have width "
                f"{spec.embed_dim} and need {spec.embed_dim // HEAD_WIDTH}; use 'seqLSTM'"
            )
        if self.layers > text.layers:
            raise ValueError(f"clip4clip.layers={self.layers}: the text tower has {text.layers}")
        if self.max_frames > text.context:
            raise ValueError(
                f"clip4clip.max_frames={self.max_frames}: the text tower has {text.context} "
                "positions to copy"
            )
        if frames + self.tight > self.max_frames:
            text_too = " and a text" * self.tight
            raise ValueError(
                f"{frames} frames{text_too}, clip4clip.max_frames is {self.max_frames}"
            )

    def head(
        self, tower: TowerScope, features: jax.Array, train: bool
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Point 9 of the vision tower."""
        sequence: Any
        if self.tight:
            return features, {}
        if self.sim_header == "seqTransf":
            sequence = FrameTransformer(self.layers, self.max_frames, tower.dtype, name="clip4clip")
        else:
            sequence = LSTM(features.shape[-1], name="clip4clip")
        return features + sequence(features).astype(features.dtype), {}

    def score(
        self, model: Scope, video: Embedded, text: Embedded, scores: jax.Array, train: bool
    ) -> jax.Array:
        """Point 9 of the tight head: raw scores [v, c]."""
        head = PairTransformer(self.layers, self.max_frames, model.dtype, name="clip4clip")
        frames, texts = video["frames"], text["features"]
        return head(frames, texts).astype(scores.dtype)

    def init_from_backbone(self, params: dict, spec: Spec) -> dict:
        """Blocks and positions start as copies of the text tower's first ones."""
        if self.sim_header == "seqLSTM":
            return params
        visual, text = params["visual"], params["text"]
        text = text | {"position_embedding": text["position_embedding"][: self.max_frames]}
        head = params["clip4clip"] if self.tight else visual["clip4clip"]
        head = head | copy_leaves({name: head[name] for name in head if name in text}, text)
        if self.tight:
            return params | {"clip4clip": head}
        return params | {"visual": visual | {"clip4clip": head}}


METHOD = CLIP4Clip


class FrameTransformer(nn.Module):
    """Blocks over frames that all see each other.

    heads: 0 for heads of 64 channels. position_std: standard deviation of the initial table.
    """

    layers: int
    max_frames: int
    dtype: jax.typing.DTypeLike
    heads: int = 0
    norm_eps: float = NORM_EPS
    position_std: float = 0.02

    @nn.compact
    def __call__(self, frames: jax.Array) -> jax.Array:
        """[b, t, e] -> [b, t, e]."""
        return self.transform(frames, lambda layer, *sizes, **options: Block(*sizes, **options))

    def transform(self, frames: jax.Array, make: Callable[..., Block]) -> jax.Array:
        """The same, with blocks that `make(layer, ...)` builds from sizes, dtype and name."""
        length, width = frames.shape[1:]
        init = nn.initializers.normal(self.position_std)
        position = self.param("position_embedding", init, (self.max_frames, width))
        x = (frames + position[:length]).astype(self.dtype)
        tokens = Tokens(x[:, None], cls=0, protected=0)
        for layer in range(self.layers):
            block = make(
                layer,
                self.heads or width // HEAD_WIDTH,
                4 * width,
                "quick_gelu",
                self.norm_eps,
                dtype=self.dtype,
                name=f"blocks_{layer}",
            )
            tokens = block(tokens)
        return tokens.x[:, 0]


class PairTransformer(FrameTransformer):
    """Blocks over a text and the frames of a video, and a score from the text's output."""

    @nn.compact
    def __call__(  # type: ignore[override]
        self, frames: jax.Array, texts: jax.Array
    ) -> jax.Array:
        """[v, t, e], [c, e] -> [v, c]."""
        videos, count, width = frames.shape
        pairs = (videos, len(texts))
        first = jnp.broadcast_to(texts[None, :, None], (*pairs, 1, width))
        rest = jnp.broadcast_to(frames[:, None], (*pairs, count, width))
        both = jnp.concatenate([first, rest], axis=2).reshape(-1, 1 + count, width)
        x = self.transform(both, lambda layer, *sizes, **options: Block(*sizes, **options))[:, 0]
        x = LayerNorm(epsilon=self.norm_eps, dtype=self.dtype, name="pool_norm")(x)
        x = ACTIVATIONS["quick_gelu"](self._dense(width, "pool")(x))
        return self._dense(1, "score")(x).reshape(pairs)

    def _dense(self, width: int, name: str) -> nn.Dense:
        init = nn.initializers.normal(self.position_std)
        return nn.Dense(width, dtype=self.dtype, kernel_init=init, name=name)
