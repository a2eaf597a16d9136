"""ST-Adapter: a bottleneck with a convolution over time and space (Pan et al., arXiv:2206.13559).

| form | options |
|---|---|
| Token Mixing's code and table, 54,853,632 weights on a ViT-B | the defaults |
| its own paper, 7,110,144 parameters | depthwise=True, kernel=(3, 1, 1), |
| | positions=("before_mlp",) |
| its own paper, twice that | positions=("before_attention", "before_mlp"), the same |

Token Mixing's convolution is dense where the paper's is depthwise, which makes it eight times as
large; its CLS tokens pass through both dense layers, the paper's through neither.
"""

import dataclasses
import itertools
import math
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlt.models.layers import KAIMING_UNIFORM, uniform
from vlt.models.options import require_some
from vlt.models.points import BlockScope, Method
from vlt.models.tokens import AttentionOutput, Tokens

NAMES = {"before_attention": "st_adapter", "before_mlp": "st_adapter_mlp"}


@dataclasses.dataclass(frozen=True)
class STAdapter(Method):
    """x + up(conv(down(x))) on the residual stream of the vision tower's blocks, no activation.

    Leaves: blocks_i/st_adapter; for the position before the MLP, blocks_i/st_adapter_mlp.

    positions: `before_attention`, `before_mlp`. width: width of the bottleneck. kernel: taps over
    frames, rows and columns, all odd. depthwise: whether each channel has its own kernel, zero at
    the start, so that the block starts as the plain one, and only patches are read; otherwise the
    convolution is dense with torch's initialisation, and tokens other than patches pass through
    down and up alone.

    Raises:
        ValueError: no or unknown positions; width below 1; a kernel that is not three odd numbers.
    """

    name: ClassVar[str] = "st_adapter"
    needs: ClassVar[frozenset[str]] = frozenset({"patch_places"})

    positions: tuple[str, ...] = ("before_attention",)
    width: int = 384
    kernel: tuple[int, ...] = (3, 3, 3)
    depthwise: bool = False

    def __post_init__(self) -> None:
        require_some("st_adapter", "positions", self.positions, tuple(NAMES))
        if self.width < 1:
            raise ValueError(f"st_adapter.width must be >= 1, got {self.width}")
        if len(self.kernel) != 3 or not all(k > 0 and k % 2 for k in self.kernel):
            raise ValueError(f"st_adapter.kernel must be three odd numbers, got {self.kernel}")

    def before_attention(self, block: BlockScope, tokens: Tokens) -> Tokens:
        """Point 1: position `before_attention`."""
        return self._adapt(block, "before_attention", tokens)

    def after_attention(
        self, block: BlockScope, tokens: Tokens, attended: AttentionOutput
    ) -> Tokens:
        """Point 6: position `before_mlp`."""
        return self._adapt(block, "before_mlp", tokens)

    def _adapt(self, block: BlockScope, position: str, tokens: Tokens) -> Tokens:
        if position not in self.positions:
            return tokens
        adapter = Bottleneck(self, block.dtype, name=NAMES[position])
        return tokens.replace(x=tokens.x + adapter(tokens))


METHOD = STAdapter


class Bottleneck(nn.Module):
    """tokens.x [b, g, n, d] -> [b, g, n, d]; protected tokens are not patches."""

    options: STAdapter
    dtype: jax.typing.DTypeLike

    @nn.compact
    def __call__(self, tokens: Tokens) -> jax.Array:
        options, x, leading = self.options, tokens.x, tokens.protected
        init = KAIMING_UNIFORM if options.depthwise else nn.initializers.normal(0.02)
        down = nn.Dense(options.width, dtype=self.dtype, kernel_init=init, name="down")
        conv = Convolution(options.kernel, options.depthwise, self.dtype, name="conv")
        up = nn.Dense(x.shape[-1], dtype=self.dtype, kernel_init=init, name="up")

        def convolved(hidden: jax.Array) -> jax.Array:
            return tokens.by_group(conv(tokens.by_frame(hidden)))

        if options.depthwise:
            y = up(convolved(down(x[:, :, leading:])))
            return jnp.pad(y, ((0, 0), (0, 0), (leading, 0), (0, 0)))
        hidden = down(x)
        patches = convolved(hidden[:, :, leading:])
        return up(jnp.concatenate([hidden[:, :, :leading], patches], axis=2))


class Convolution(nn.Module):
    """A zero-padded convolution over frames, rows and columns; leaves as in torch's Conv3d."""

    kernel: tuple[int, ...]
    depthwise: bool
    dtype: jax.typing.DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, t, h * w, c] -> [b, t, h * w, c], patches of square frames."""
        b, t, n, c = x.shape
        side = math.isqrt(n)
        shape = (*self.kernel, 1 if self.depthwise else c, c)
        inits = (KAIMING_UNIFORM, uniform(math.prod(shape[:-1]) ** -0.5))
        if self.depthwise:
            inits = (nn.initializers.zeros, nn.initializers.zeros)
        kernel = self.param("kernel", inits[0], shape).astype(self.dtype)
        bias = self.param("bias", inits[1], (c,)).astype(self.dtype)
        convolve = convolve_depthwise if self.depthwise else convolve_dense
        return convolve(x.reshape(b, t, side, side, c), kernel).reshape(x.shape) + bias


def convolve_dense(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves x [b, t, h, w, c] with kernel [kt, kh, kw, c, c] to the same size.

    On a CPU, a two-dimensional convolution for each tap in time takes two thirds of the time of a
    three-dimensional one.
    """
    b, t, *frame = x.shape
    past = kernel.shape[0] // 2
    padded = jnp.pad(x, ((0, 0), (past, past), (0, 0), (0, 0), (0, 0)))
    layout = ("NHWC", "HWIO", "NHWC")
    y = jnp.zeros((), x.dtype)
    for tap, weights in enumerate(kernel):
        frames = padded[:, tap : tap + t].reshape(b * t, *frame)
        y += jax.lax.conv_general_dilated(frames, weights, (1, 1), "SAME", dimension_numbers=layout)
    return y.reshape(x.shape)


def convolve_depthwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves each channel of x [b, t, h, w, c] with its own kernel, [kt, kh, kw, 1, c].

    On a CPU, a grouped convolution takes a hundred times as long as these sums.
    """
    t, h, w = x.shape[1:4]
    taps = kernel.shape[:3]
    padded = jnp.pad(x, ((0, 0), *((k // 2, k // 2) for k in taps), (0, 0)))
    y = jnp.zeros((), x.dtype)
    for i, j, k in itertools.product(*map(range, taps)):
        y += padded[:, i : i + t, j : j + h, k : k + w] * kernel[i, j, k, 0]
    return y
