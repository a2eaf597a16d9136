"""MSTA: adapters of both towers that meet in a shared projection (Chen et al., Section 3.2).

Beside block j of each tower stands a bottleneck whose middle layer W_s the towers share (Eq. 8, 10
to 13, with ReLU as sigma):

    h = relu(W_s relu(W_vd x)),   x' = Block(x) + scale (W_us h + W_ut h)         vision
    x' = Block(x) + scale W_tu relu(W_s relu(W_td x))                             text

W_ut is a depthwise convolution over the frames of each patch (Algorithm 2). The paper comes without
code; what it leaves open follows MMA, the image adapter it extends, and is an option here:

| open | default | other |
|---|---|---|
| the adapter's input | adapter_input="ln1", as in MMA | "raw", as Eq. 8 is written |
| CLS in the convolution | cls_temporal="none" | "replicate" |
| dropout | dropout_position="after_shared" | "before_shared" |
| MMA's gradient scaling | gradient_scaling=True | False |

| row on a ViCLIP-B/16 | options | parameters |
|---|---|---|
| base-to-novel | the defaults | 8,712,192 |
| zero-shot, fully supervised | bottleneck=128, scale=0.001 | 4,185,600 |
| few-shot | bottleneck=128, layers=(7, 8, 9, 10, 11) | 1,744,000 |
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlt.models.gradients import scale_gradient
from vlt.models.options import TOWERS, check_layers, require_some
from vlt.models.platforms import traced_for
from vlt.models.points import BlockScope, Method
from vlt.models.spec import BertSpec, Spec, TextSpec
from vlt.models.tokens import Tokens

CHOICES = {
    "adapter_input": ("ln1", "raw"),
    "cls_temporal": ("none", "replicate"),
    "dropout_position": ("after_shared", "before_shared"),
}
# Kaiming's rule for the fan out, which torch does not divide by the groups of a convolution.
KAIMING_NORMAL = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


@dataclasses.dataclass(frozen=True)
class MSTA(Method):
    """Leaves: blocks_i/msta/{down, up, temporal_up} and shared_MSTA/blocks_i, i the vision block.

    bottleneck: width m (Dims). scale: lambda; 0 is the frozen model.
    layers: vision blocks that have an adapter, from 0; () for all. text_layers: the text blocks
        that share with them, in the same order; () for the same indices.
    shared: False leaves out W_s and its relu. towers: the towers it is in.
    dropout: rate on the bottleneck, in training. dropout_position: `after_shared` or
        `before_shared`, after W_s or before it.
    adapter_input: `ln1`, what enters the block, through its first LayerNorm, or `raw`, without it.
    cls_temporal: `none`, tokens other than patches take only the spatial path; `replicate`, CLS
        tokens pass through the convolution too; those of a joint tower are repeated for every
        frame, and the mean of the outputs is added.
    gradient_scaling: whether the adapter's leaves get gradients as if lambda were 1, while the
        gradient that reaches the block's input is the true one.

    Raises:
        ValueError: bottleneck below 1; scale below 0; dropout out of range; an unknown choice.
    """

    name: ClassVar[str] = "msta"
    needs: ClassVar[frozenset[str]] = frozenset({"patch_places", "same_tokens"})

    bottleneck: int = 256
    scale: float = 0.005
    layers: tuple[int, ...] = ()
    text_layers: tuple[int, ...] = ()
    shared: bool = True
    towers: tuple[str, ...] = TOWERS
    dropout: float = 0.1
    dropout_position: str = "after_shared"
    adapter_input: str = "ln1"
    cls_temporal: str = "none"
    gradient_scaling: bool = True

    def __post_init__(self) -> None:
        if self.bottleneck < 1:
            raise ValueError(f"msta.bottleneck must be >= 1, got {self.bottleneck}")
        if self.scale < 0:
            raise ValueError(f"msta.scale must be >= 0, got {self.scale}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"msta.dropout must be >= 0 and < 1, got {self.dropout}")
        require_some("msta", "towers", self.towers, TOWERS)
        for field, known in CHOICES.items():
            require_some("msta", field, (getattr(self, field),), known)

    def check(self, spec: Spec, frames: int) -> None:
        """Raises ValueError for blocks that a tower does not have or that cannot be paired, and for
        a shared projection where there is no causal text tower beside the vision tower."""
        if self.shared and not isinstance(spec.text, TextSpec):
            whose = "BLIP's text model" if isinstance(spec.text, BertSpec) else "a language model"
            raise ValueError(f"msta.shared=True: {whose} has no block to share with; set it False")
        visual, text = (
            self.blocks(tower, getattr(spec, tower).layers) for tower in ("visual", "text")
        )
        if self.shared and len(self.towers) == 2 and len(visual) != len(text):
            raise ValueError(
                f"msta.layers={self.layers} are {len(visual)} of {spec.visual.layers} vision "
                f"blocks and msta.text_layers={self.text_layers} {len(text)} of "
                f"{spec.text.layers} text blocks; a projection is shared by one of each, so name "
                "equally many"
            )
        if "visual" in self.towers:
            check_layers("msta.layers", visual, spec.visual.layers)
        if "text" in self.towers:
            check_layers("msta.text_layers", text, spec.text.layers)

    def blocks(self, tower: str, depth: int) -> tuple[int, ...]:
        """The blocks that have an adapter in a tower of `depth` blocks."""
        chosen = self.layers if tower == "visual" else self.text_layers or self.layers
        return chosen or tuple(range(depth))

    def shared_module(self, spec: Spec) -> nn.Module | None:
        """Point 11: every W_s."""
        return SharedProjections() if self.shared else None

    def parallel_block(
        self, block: BlockScope, entry: Tokens, normed: jax.Array, tokens: Tokens
    ) -> Tokens:
        """Point 7: reads what entered the block and adds to its output."""
        blocks = self.blocks(block.tower, block.depth)
        if block.layer not in blocks:
            return tokens
        shared = None
        if self.shared and block.shared is not None:
            pair = blocks.index(block.layer)
            vision = self.layers if "visual" in self.towers else ()
            name = f"blocks_{vision[pair] if vision else pair}"
            shared = functools.partial(block.shared[type(self).__name__], name=name)
        felt = self.scale if self.gradient_scaling and self.scale else 1.0
        x = normed if self.adapter_input == "ln1" else entry.x
        read = tokens.replace(x=scale_gradient(x, felt))
        adapter = SidePath(self, block.tower == "visual", block.train, block.dtype, name="msta")
        y = scale_gradient(self.scale * adapter(read, shared), 1 / felt)
        return tokens.replace(x=tokens.x + y)


METHOD = MSTA


class SharedProjections(nn.Module):
    """W_s of every pair of blocks; both towers call it with the pair's name."""

    @nn.compact
    def __call__(self, x: jax.Array, name: str) -> jax.Array:
        """[..., m] -> [..., m]."""
        return nn.Dense(x.shape[-1], dtype=x.dtype, kernel_init=KAIMING_NORMAL, name=name)(x)


class SidePath(nn.Module):
    """The adapter: A_v of a vision tower, A_t of a text tower."""

    options: MSTA
    visual: bool
    train: bool
    dtype: jax.typing.DTypeLike

    @nn.compact
    def __call__(
        self, tokens: Tokens, shared: Callable[[jax.Array], jax.Array] | None
    ) -> jax.Array:
        """tokens.x [b, g, n, d] -> [b, g, n, d]. shared: W_s, [..., m] -> [..., m]."""
        options, width = self.options, tokens.x.shape[-1]

        def dense(width: int, name: str) -> nn.Dense:
            return nn.Dense(width, dtype=self.dtype, kernel_init=KAIMING_NORMAL, name=name)

        def dropped(x: jax.Array, position: str) -> jax.Array:
            off = not self.train or position != options.dropout_position
            return x if off else nn.Dropout(options.dropout, deterministic=False)(x)

        hidden = dropped(jax.nn.relu(dense(options.bottleneck, "down")(tokens.x)), "before_shared")
        if shared is not None:
            hidden = jax.nn.relu(shared(hidden))
        hidden = dropped(hidden, "after_shared")
        y = dense(width, "up")(hidden)
        if self.visual:
            convolve = TemporalUp(width, self.dtype, name="temporal_up")
            y += self._over_time(tokens.replace(x=hidden), convolve)
        return y

    def _over_time(self, hidden: Tokens, convolve: "TemporalUp") -> jax.Array:
        """W_ut on hidden.x [b, g, n, m], zero where a token takes only the spatial path."""
        first, x = hidden.protected, hidden.x
        patches = self._of_patches(hidden, convolve)
        y = jnp.pad(patches, ((0, 0), (0, 0), (first, 0), (0, 0)))
        if self.options.cls_temporal == "none":
            return y
        cls = x[:, :, : hidden.cls]
        if hidden.frames > 1:
            cls = convolve(jnp.repeat(cls, hidden.frames, axis=1), 1).mean(1, keepdims=True)
        else:
            cls = convolve(cls, 1)
        return y.at[:, :, : hidden.cls].set(cls)

    def _of_patches(self, hidden: Tokens, convolve: "TemporalUp") -> jax.Array:
        """W_ut on the patches, [b, g, n - protected, d]."""
        x = hidden.x[:, :, hidden.protected :]
        if hidden.over_time:
            return convolve(x, 2)
        if hidden.frames == 1:
            return convolve(x, 1)
        b, g, n, m = x.shape
        y = convolve(x.reshape(b, n // hidden.frames, hidden.frames, m), 2)
        return y.reshape(b, g, n, y.shape[-1])


class TemporalUp(nn.Module):
    """A zero-padded grouped convolution over three frames, in as many groups as divide both
    widths; consecutive channels in and out make a group, as in torch's Conv3d."""

    width: int
    dtype: jax.typing.DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, axis: int) -> jax.Array:
        """[b, ., ., m] -> [b, ., ., d] along `axis`, the frames'; leaves kernel [3, m / groups, d]
        and bias [d]."""
        m = x.shape[-1]
        groups = math.gcd(m, self.width)
        kernel = self.param("kernel", KAIMING_NORMAL, (3, m // groups, self.width))
        bias = self.param("bias", nn.initializers.zeros, (self.width,)).astype(self.dtype)
        convolve = _convolved if traced_for() == "tpu" else _sum_of_taps
        return convolve(x, kernel.astype(self.dtype), groups, axis) + bias


def _sum_of_taps(x: jax.Array, kernel: jax.Array, groups: int, axis: int) -> jax.Array:
    # The gradient of a grouped convolution takes hundreds of times as long on a CPU.
    frames = x.shape[axis]
    padding = [(1, 1) if i == axis else (0, 0) for i in range(x.ndim)]
    x = jnp.pad(x, padding)
    x = x.reshape(*x.shape[:-1], groups, kernel.shape[1])
    y = jnp.zeros((), x.dtype)
    for tap, weights in enumerate(kernel.reshape(3, kernel.shape[1], groups, -1)):
        some = jax.lax.slice_in_dim(x, tap, tap + frames, axis=axis)
        y += jnp.einsum("bpqgi,igo->bpqgo", some, weights)
    return y.reshape(*y.shape[:3], kernel.shape[2])


def _convolved(x: jax.Array, kernel: jax.Array, groups: int, axis: int) -> jax.Array:
    # A TPU would lay out each group's few channels apart. With zeros between the groups it is one
    # matrix product per tap, for a twentieth more operations in a block.
    window = [3 if i == axis else 1 for i in (1, 2)]
    entering, leaving = (jnp.arange(n) * groups // n for n in (x.shape[-1], kernel.shape[-1]))
    own = (entering[:, None] == leaving).astype(kernel.dtype)
    whole = jnp.tile(kernel, (1, groups, 1)) * own
    return jax.lax.conv_general_dilated(
        x,
        whole.reshape(*window, *whole.shape[1:]),
        (1, 1),
        [(size // 2, size // 2) for size in window],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
