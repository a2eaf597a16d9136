"""ActionCLIP: heads over frame embeddings, and channels of patches shifted along time.

Wang et al., arXiv:2109.08472, Section 3.3. In-network prompt: before every block, each patch takes
an eighth of its channels from the next frame and an eighth from the previous one (TSM,
arXiv:1811.08383), in the residual stream as well. Post-network prompt: for frame embeddings f,
video = unit(mean_t(f + H(f))).
"""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlt.adapters.clip4clip import HEAD_WIDTH, FrameTransformer
from vlt.adapters.lstm import LSTM
from vlt.adapters.mote import NORMAL
from vlt.models.attention import Attention
from vlt.models.block import Block
from vlt.models.layers import XAVIER_QKV, LayerNorm
from vlt.models.options import require_some
from vlt.models.points import BlockScope, Method, TowerScope
from vlt.models.spec import Spec
from vlt.models.tokens import Pattern, Tokens

HEADERS = ("meanP", "Transf", "LSTM", "Conv_1D", "Transf_cls")
CLS_HEADS, CLS_WIDTH, CLS_DROPOUT = 8, 2048, 0.1  # for Transf_cls, whatever the width
PARTS = 8  # of the channels; one is shifted in each direction


@dataclasses.dataclass(frozen=True)
class ActionCLIP(Method):
    """Leaves: visual/actionclip.

    sim_header: H (the published flag's name). `meanP`, no H; `Transf`, blocks over all frames with
        learned positions; `LSTM`, one layer forwards in time; `Conv_1D`, a convolution of each
        channel over three frames, which at first shifts a quarter of the channels each way;
        `Transf_cls`, post-LN layers over the frames and a class token, whose output alone is the
        video's embedding.
    layers: number of layers of `Transf` and `Transf_cls`. max_frames: rows of their position table.
    shift: whether patches are shifted in every block.
    published: whether `Conv_1D` reads the memory of [t, e] embeddings as [e, t], as the published
        code does, which mixes channels with time.

    Raises:
        ValueError: unknown sim_header; layers or max_frames below 1; `published` where nothing is
            convolved.
    """

    name: ClassVar[str] = "actionclip"
    needs: ClassVar[frozenset[str]] = frozenset({"frame_groups", "joint_space"})

    settled: ClassVar[frozenset[str]] = frozenset({"sim_header", "layers", "shift", "published"})

    sim_header: str = "Transf"
    layers: int = 6
    max_frames: int = 77
    shift: bool = False
    published: bool = False

    def __post_init__(self) -> None:
        require_some("actionclip", "sim_header", (self.sim_header,), HEADERS)
        for field in ("layers", "max_frames"):
            if getattr(self, field) < 1:
                raise ValueError(f"actionclip.{field} must be >= 1, got {getattr(self, field)}")
        if self.published and self.sim_header != "Conv_1D":
            raise ValueError(
                f"actionclip.published=True with actionclip.sim_header={self.sim_header!r}: it "
                "says how 'Conv_1D' reads frames; set it False"
            )

    def needs_here(self) -> frozenset[str]:
        """Adds `patch_places` where patches are shifted."""
        return super().needs_here() | ({"patch_places"} if self.shift else set())

    def check(self, spec: Spec, frames: int) -> None:
        """Raises ValueError for more frames than positions, for heads that do not divide the width
        of embeddings, and for a tower width that does not divide into parts to shift."""
        positions = self.sim_header in ("Transf", "Transf_cls")
        if positions and frames > self.max_frames:
            raise ValueError(f"{frames} frames, actionclip.max_frames is {self.max_frames}")
        heads = {"Transf": HEAD_WIDTH, "Transf_cls": CLS_HEADS}.get(self.sim_header, 1)
        if spec.embed_dim % heads:
            raise ValueError(
                f"actionclip.sim_header={self.sim_header!r} splits the width of frame embeddings "
                f"by {heads}, and {spec.embed_dim} is not a multiple; use 'LSTM' or 'Conv_1D'"
            )
        if self.shift and spec.visual.width % PARTS:
            raise ValueError(
                f"actionclip.shift=True: the tower's width {spec.visual.width} must be a multiple "
                f"of {PARTS}"
            )

    def before_attention(self, block: BlockScope, tokens: Tokens) -> Tokens:
        """Point 1: gives each patch channels of the patches at its place in the adjacent frames,
        zeros where there is no such frame."""
        if not self.shift:
            return tokens
        kept, patches = jnp.split(tokens.x, [tokens.protected], axis=2)
        return tokens.replace(x=jnp.concatenate([kept, shifted(patches)], axis=2))

    def head(
        self, tower: TowerScope, features: jax.Array, train: bool
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Point 9 of the vision tower."""
        if self.sim_header == "meanP":
            return features, {}
        blocks = self._module(tower, features.shape[-1], train)
        made = blocks(features.astype(tower.dtype)).astype(features.dtype)
        return (made if self.sim_header == "Transf_cls" else features + made), {}

    def _module(self, tower: TowerScope, width: int, train: bool) -> nn.Module:
        sizes, options = (self.layers, self.max_frames), {"dtype": tower.dtype, "name": self.name}
        if self.sim_header == "Transf":
            return FreshTransformer(*sizes, **options)
        if self.sim_header == "Transf_cls":
            return ClassTransformer(*sizes, train=train, **options)
        if self.sim_header == "LSTM":
            return LSTM(width, name=self.name)
        return FrameConvolution(self.published, **options)


METHOD = ActionCLIP


def shifted(x: jax.Array) -> jax.Array:
    """[b, t, n, d] with the first eighth of d taken from frame t + 1, the second from t - 1."""
    size = x.shape[-1] // PARTS
    padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)))
    later, earlier = padded[:, 2:, :, :size], padded[:, :-2, :, size : 2 * size]
    return jnp.concatenate([later, earlier, x[..., 2 * size :]], axis=-1)


class FreshTransformer(FrameTransformer):
    """Blocks with random initial weights."""

    @nn.compact
    def __call__(self, frames: jax.Array) -> jax.Array:
        """[b, t, e] -> [b, t, e]."""
        init: dict[str, Any] = {"kernel_init": NORMAL, "qkv_init": XAVIER_QKV}
        return self.transform(frames, lambda _, *sizes, **options: Block(*sizes, **options, **init))


class FrameConvolution(nn.Module):
    """Each channel convolved over three frames, without bias. published: see `ActionCLIP`."""

    published: bool
    dtype: jax.typing.DTypeLike

    @nn.compact
    def __call__(self, frames: jax.Array) -> jax.Array:
        """[b, t, e] -> [b, t, e]."""
        b, t, width = frames.shape
        kernel = self.param("kernel", shift_of_quarters, (3, width)).astype(self.dtype)
        x = frames.astype(self.dtype)
        if self.published:
            x = x.reshape(b, width, t).swapaxes(1, 2)
        padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
        return jnp.stack([padded[:, i : i + t] * kernel[i] for i in range(3)]).sum(0)


def shift_of_quarters(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Kernel [3, e] that reads the previous frame for the first quarter of the channels, the next
    frame for the last quarter, and the frame itself for those between."""
    channel, quarter = jnp.arange(shape[1]), shape[1] // 4
    last = channel >= shape[1] - quarter
    return jnp.stack([channel < quarter, (channel >= quarter) & ~last, last]).astype(jnp.float32)


def cut_normal(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """0.02 times the remainder of a normal sample divided by 2: the published head's start."""
    return 0.02 * jnp.fmod(jax.random.normal(key, shape, dtype), 2)


class ClassTransformer(nn.Module):
    """Post-LN layers over a class token and the frames; the output is the token's alone."""

    layers: int
    max_frames: int
    train: bool
    dtype: jax.typing.DTypeLike

    @nn.compact
    def __call__(self, frames: jax.Array) -> jax.Array:
        """[b, t, e] -> [b, 1, e]."""
        b, t, width = frames.shape
        token = self.param("class_embedding", cut_normal, (width,))
        rows = 1 + self.max_frames
        position = self.param("class_position_embedding", cut_normal, (rows, width))
        x = jnp.concatenate([jnp.broadcast_to(token, (b, 1, width)), frames], axis=1)
        x = (x + position[: 1 + t]).astype(self.dtype)[:, None]
        for layer in range(self.layers):
            x = PostNormLayer(self.train, self.dtype, name=f"layers_{layer}")(x)
        norm = LayerNorm(epsilon=1e-5, dtype=self.dtype, name="final_norm")
        return norm(x[:, 0, :1])


class PostNormLayer(nn.Module):
    """torch's encoder layer: LN(x + Attention(x)), then LN(x + MLP(x)) with ReLU."""

    train: bool
    dtype: jax.typing.DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, 1, n, d] -> [b, 1, n, d]."""
        rate = CLS_DROPOUT * self.train

        def dense(width: int, name: str) -> nn.Dense:
            return nn.Dense(width, dtype=self.dtype, kernel_init=cut_normal, name=name)

        def dropped(x: jax.Array) -> jax.Array:
            return nn.Dropout(rate, deterministic=not self.train)(x)

        def added(x: jax.Array, y: jax.Array, name: str) -> jax.Array:
            return LayerNorm(epsilon=1e-5, dtype=self.dtype, name=name)(x + dropped(y))

        attention = Attention(
            CLS_HEADS,
            dtype=self.dtype,
            kernel_init=cut_normal,
            qkv_init=XAVIER_QKV,
            dropout=rate,
            name="attention",
        )
        x = added(x, attention(Pattern(x, x))[0], "norm1")
        y = dense(x.shape[-1], "fc2")(dropped(nn.relu(dense(CLS_WIDTH, "fc1")(x))))
        return added(x, y, "norm2")
