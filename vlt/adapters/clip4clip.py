"""CLIP4Clip's sequential heads on the embeddings of frames (Luo et al., arXiv:2104.08860, 3.3).

The parameter-free head, mean pooling, is `model.frame_norm=True` and no method. These heads come
before it and need it too: unit norm of every frame, then the mean.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax

from vlt.models.block import KAIMING_UNIFORM, Block
from vlt.models.options import require_some
from vlt.models.points import Method, TowerScope, copy_leaves
from vlt.models.spec import BertSpec, Spec
from vlt.models.tokens import Tokens

HEAD_WIDTH = 64
NORM_EPS = 1e-12  # of the published head, where CLIP has 1e-5


@dataclasses.dataclass(frozen=True)
class CLIP4Clip(Method):
    """f + sequence model(f) for frame embeddings f [b, t, e]. Leaves: visual/clip4clip/.

    sim_header: `seqTransf`, transformer blocks over all frames with learned positions; `seqLSTM`,
        one layer forwards in time. (The published flag's name.)
    layers, max_frames: blocks and rows of the position table of seqTransf, which start as copies of
        the text tower's first.

    Raises:
        ValueError: unknown sim_header.
    """

    name: ClassVar[str] = "clip4clip"
    needs: ClassVar[frozenset[str]] = frozenset({"frame_groups", "joint_space"})

    sim_header: str = "seqTransf"
    layers: int = 4
    max_frames: int = 77

    def __post_init__(self) -> None:
        require_some("clip4clip", "sim_header", (self.sim_header,), ("seqTransf", "seqLSTM"))

    def check(self, spec: Spec, frames: int) -> None:
        """Raises ValueError where seqTransf cannot be a copy of the text tower's layers."""
        text = spec.text
        if self.sim_header != "seqTransf":
            return
        if isinstance(text, BertSpec):
            raise ValueError(
                "clip4clip.sim_header='seqTransf' copies layers of CLIP's text tower, and BLIP's "
                "text model has others; use 'seqLSTM'"
            )
        if (text.width, text.heads) != (spec.embed_dim, spec.embed_dim // HEAD_WIDTH):
            raise ValueError(
                "clip4clip.sim_header='seqTransf' copies layers of the text tower, which has "
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
        if frames > self.max_frames:
            raise ValueError(f"{frames} frames, clip4clip.max_frames is {self.max_frames}")

    def head(
        self, tower: TowerScope, features: jax.Array, train: bool
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Point 9 of the vision tower."""
        sequence: Any
        if self.sim_header == "seqTransf":
            sequence = FrameTransformer(self.layers, self.max_frames, tower.dtype, name="clip4clip")
        else:
            cell = nn.OptimizedLSTMCell(
                features.shape[-1],
                kernel_init=KAIMING_UNIFORM,
                recurrent_kernel_init=KAIMING_UNIFORM,  # torch's: uniform in +-1/sqrt(e)
                dtype=tower.dtype,
                parent=None,
            )
            sequence = nn.RNN(cell, name="clip4clip")
        return features + sequence(features).astype(features.dtype), {}

    def init_from_backbone(self, params: dict, spec: Spec) -> dict:
        """Blocks and positions of seqTransf start as the text tower's first."""
        if self.sim_header != "seqTransf":
            return params
        visual, text = params["visual"], params["text"]
        position = text["position_embedding"][: self.max_frames]
        head = copy_leaves(visual["clip4clip"], text | {"position_embedding": position})
        return params | {"visual": visual | {"clip4clip": head}}


METHOD = CLIP4Clip


class FrameTransformer(nn.Module):
    """Blocks over frames that all see each other.

    heads: 0 for as many as have 64 channels. position_std: of the table at the start.
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
        """The same, of blocks that `make(layer, ...)` makes, given sizes, dtype and name."""
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
