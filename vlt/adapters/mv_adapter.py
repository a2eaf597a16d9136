"""MV-Adapter: bottlenecks after the MLPs of both towers (Jin et al., CVPR 2024, Section 3).

y + scale A(y) replaces an MLP's output y. In the vision tower, y is projected down to r channels,
where the class tokens of t frames and the means of their patches become one sequence, with a
learned token before it; a block lets them read each other, and a gate made from the learned token
and both tokens of a frame calibrates its class token. In the text tower a block lets each word read
those before it. In the last layers the down-projections of both towers are scaled by a vector that
they share.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlt.models.activations import ACTIVATIONS
from vlt.models.block import Block
from vlt.models.layers import KAIMING_UNIFORM, LayerNorm, uniform
from vlt.models.options import TOWERS, check_layers, require_some
from vlt.models.points import BlockScope, Method
from vlt.models.spec import Spec, TextSpec
from vlt.models.tokens import Tokens

TIES = ("out", "in", "none")
NORM_EPS = 1e-5


@dataclasses.dataclass(frozen=True)
class MVAdapter(Method):
    """Leaves: blocks_i/mv_adapter/ of both towers; shared_MVAdapter/factor_k, shared by the
    blocks tied_layers[k] of both.

    bottleneck: r. heads: heads of the blocks over r channels. gate: hidden channels of the gate.
        scale: factor of A. towers: the towers it is in.
    frames, words: what the position tables have room for: t frames, and the most tokens of a text.
        The published code takes texts of exactly that many, to the same effect.
    tie: what the shared vector scales, the channels that come `out` of the down-projection
        (published for MSR-VTT) or those that go `in` (for the other data sets), or `none`.
    tied_layers: the blocks of both towers that it ties, from 0. factor: channels of the vector.

    Raises:
        ValueError: a count below 1; heads that do not divide r; unknown tie or towers.
    """

    name: ClassVar[str] = "mv_adapter"
    needs: ClassVar[frozenset[str]] = frozenset({"frame_groups", "class_token"})
    settled: ClassVar[frozenset[str]] = frozenset({"heads", "scale", "frames", "words", "tie"})

    bottleneck: int = 64
    heads: int = 2
    gate: int = 16
    scale: float = 0.1
    towers: tuple[str, ...] = TOWERS
    frames: int = 12
    words: int = 32
    tie: str = "out"
    tied_layers: tuple[int, ...] = (10, 11)
    factor: int = 32

    def __post_init__(self) -> None:
        for field in ("bottleneck", "heads", "gate", "frames", "words", "factor"):
            if getattr(self, field) < 1:
                raise ValueError(f"mv_adapter.{field} must be >= 1, got {getattr(self, field)}")
        if self.bottleneck % self.heads:
            raise ValueError(
                f"mv_adapter.heads={self.heads} must divide mv_adapter.bottleneck={self.bottleneck}"
            )
        require_some("mv_adapter", "tie", (self.tie,), TIES)
        require_some("mv_adapter", "towers", self.towers, TOWERS)

    def check(self, spec: Spec, frames: int) -> None:
        """Raises ValueError for another number of frames than the table's, for tied blocks that do
        not exist, and, without a causal text tower, for anything but untied vision adapters."""
        of_texts = "text" in self.towers or self.tie != "none"
        if of_texts and not isinstance(spec.text, TextSpec):
            raise ValueError(
                f"mv_adapter.towers={self.towers} with mv_adapter.tie={self.tie!r}: its adapters "
                "of texts are for a causal text tower, and a tie for both towers of it; set "
                "towers=('visual',) and tie='none'"
            )
        if "visual" in self.towers:
            self.check_frames(frames)
        for tower in self.towers if self.tie != "none" else ():
            depth = getattr(spec, tower).layers
            check_layers(f"mv_adapter.tied_layers in the {tower} tower", self.tied_layers, depth)

    def check_frames(self, count: int) -> None:
        """Raises ValueError for another number of frames than the table's."""
        if count != self.frames:
            raise ValueError(
                f"{count} frames, but mv_adapter's positions are for {self.frames} "
                "(mv_adapter.frames): use that many"
            )

    @property
    def reads_patches(self) -> bool:
        return "visual" in self.towers

    def shared_module(self, spec: Spec) -> nn.Module | None:
        """Point 11: the shared vectors."""
        return None if self.tie == "none" else Factors(self.factor)

    def mlp_path(
        self, block: BlockScope, entry: Tokens, tokens: Tokens, normed: jax.Array, y: jax.Array
    ) -> jax.Array:
        """Point 7: y + scale A(y)."""
        factor = None
        if self.tie != "none" and block.layer in self.tied_layers:
            assert block.shared is not None
            pair = self.tied_layers.index(block.layer)
            factor = block.shared[type(self).__name__](pair)
        visual = block.tower == "visual"
        adapter = (VideoAdapter if visual else TextAdapter)(self, block.dtype, name=self.name)
        return y + self.scale * adapter(tokens.replace(x=y), factor)


METHOD = MVAdapter


class Factors(nn.Module):
    """The vectors that both towers share."""

    width: int

    @nn.compact
    def __call__(self, pair: int) -> jax.Array:
        """The vector [width] of this pair of blocks."""
        return self.param(f"factor_{pair}", nn.initializers.zeros, (self.width,))


class Down(nn.Module):
    """The projection to r channels, whose outputs or inputs a shared vector scales.

    The vector starts at zero, so the scales start as the random bias of the layer that reads it.
    """

    width: int
    tie: str
    kernel_init: nn.initializers.Initializer
    dtype: jax.typing.DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, factor: jax.Array | None) -> jax.Array:
        """[..., d] -> [..., r]."""
        inputs = x.shape[-1]
        kernel = self.param("kernel", self.kernel_init, (inputs, self.width))
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        if factor is not None:
            width = self.width if self.tie == "out" else inputs
            scales = torch_dense(width, len(factor), "tie", factor.dtype)(factor)
            kernel = kernel * (scales if self.tie == "out" else scales[:, None])
        return x @ kernel.astype(self.dtype) + bias.astype(self.dtype)


class VideoAdapter(nn.Module):
    """The adapter A of the vision tower."""

    options: MVAdapter
    dtype: jax.typing.DTypeLike

    @nn.compact
    def __call__(self, tokens: Tokens, factor: jax.Array | None) -> jax.Array:
        """tokens.x [b, g, n, d] -> [b, g, n, d]."""
        options, x = self.options, tokens.x
        down = Down(options.bottleneck, options.tie, KAIMING_UNIFORM, self.dtype, name="down")
        hidden = ACTIVATIONS["quick_gelu"](down(x, factor))
        cls = hidden[:, :, : tokens.cls]
        frames = cls.reshape(len(x), -1, options.bottleneck)  # those of joined clips, too
        options.check_frames(frames.shape[1])
        means = jnp.repeat(mean_of_patches(tokens, hidden), tokens.cls, axis=1)
        cls = self._calibrated(frames, means).reshape(cls.shape)
        hidden = jnp.concatenate([cls, hidden[:, :, tokens.cls :]], axis=2)
        return dense(x.shape[-1], nn.initializers.zeros, "up", self.dtype)(hidden)

    def _calibrated(self, frames: jax.Array, means: jax.Array) -> jax.Array:
        """Class tokens [b, t, r], calibrated by all of them and the means of patches [b, t, r]."""
        b, t, r = frames.shape
        first = self.param("class_token", nn.initializers.normal(r**-0.5), (r,))
        first = jnp.broadcast_to(first.astype(self.dtype), (b, 1, r))
        x = jnp.concatenate([first, frames, means], axis=1)
        x = sequence(self, x, 1 + 2 * self.options.frames, causal=False)
        first, frames, means = x[:, :1], x[:, 1 : 1 + t], x[:, 1 + t :]
        whole = jnp.broadcast_to(torch_dense(r, r, "gate_class", self.dtype)(first), frames.shape)
        gate = jnp.concatenate([frames + means, whole], axis=-1)
        gate = jax.nn.relu(torch_dense(self.options.gate, 2 * r, "gate_in", self.dtype)(gate))
        last = nn.Dense(r, False, self.dtype, kernel_init=nn.initializers.zeros, name="gate_out")
        return (1 + last(gate)) * frames


class TextAdapter(nn.Module):
    """The adapter A of the text tower."""

    options: MVAdapter
    dtype: jax.typing.DTypeLike

    @nn.compact
    def __call__(self, tokens: Tokens, factor: jax.Array | None) -> jax.Array:
        """tokens.x [b, 1, l, d] -> [b, 1, l, d]."""
        options, x = self.options, tokens.x
        if x.shape[2] > options.words:
            raise ValueError(
                f"{x.shape[2]} tokens of a text, but mv_adapter's positions are for "
                f"{options.words} (mv_adapter.words): use at most that many"
            )
        init = nn.initializers.normal((2 * x.shape[-1]) ** -0.5)
        down = Down(options.bottleneck, options.tie, init, self.dtype, name="down")
        hidden = sequence(self, down(x, factor)[:, 0], options.words, causal=True)
        return dense(x.shape[-1], nn.initializers.zeros, "up", self.dtype)(hidden)[:, None]


def sequence(
    adapter: VideoAdapter | TextAdapter, x: jax.Array, rows: int, causal: bool
) -> jax.Array:
    """[b, n, r] -> [b, n, r]: positions from a table of `rows` rows are added, then come a
    LayerNorm, a block and its activation. The leaves are the adapter's."""
    length, r = x.shape[1:]
    table = adapter.param("position_embedding", nn.initializers.normal(0.01), (rows, r))
    x = x + table[:length].astype(x.dtype)
    x = LayerNorm(epsilon=NORM_EPS, dtype=adapter.dtype, name="norm")(x)
    block = Block(
        adapter.options.heads,
        4 * r,
        "quick_gelu",
        NORM_EPS,
        causal=causal,
        dtype=adapter.dtype,
        kernel_init=nn.initializers.normal((2 * r) ** -0.5),
        qkv_init=nn.initializers.normal(r**-0.5),
        name="block",
    )
    tokens = block(Tokens(x[:, None], cls=0, protected=0))
    return ACTIVATIONS["quick_gelu"](tokens.x[:, 0])


def mean_of_patches(tokens: Tokens, x: jax.Array) -> jax.Array:
    """Means of each group, [b, g, n, r] -> [b, g, r]; a merged patch counts as all it holds."""
    x = x[:, :, tokens.protected :]
    if tokens.size is None:
        return x.mean(2)
    size = tokens.size[:, :, tokens.protected :, None].astype(x.dtype)
    return (x * size).sum(2) / size.sum(2)


def dense(
    width: int, init: nn.initializers.Initializer, name: str, dtype: jax.typing.DTypeLike
) -> nn.Dense:
    """A dense layer whose bias starts at zero."""
    return nn.Dense(width, dtype=dtype, kernel_init=init, name=name)


def torch_dense(width: int, inputs: int, name: str, dtype: jax.typing.DTypeLike) -> nn.Dense:
    """A dense layer with torch's initialisation."""
    bias = uniform(inputs**-0.5)
    return nn.Dense(width, dtype=dtype, kernel_init=KAIMING_UNIFORM, bias_init=bias, name=name)
