"""The layers that every tower shares: norms, dense layers, the MLP, stochastic depth."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlt.models.activations import ACTIVATIONS
from vlt.models.leaves import Leaves
from vlt.models.narrow import SCALE
from vlt.models.points import Method
from vlt.models.products import dot_general, promoted

# Torch's default: uniform in +-1/sqrt(in), Kaiming's rule with a = sqrt(5).
KAIMING_UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# Its default for attention's joint queries, keys and values: Xavier's rule, d inputs, 3 d outputs.
XAVIER_QKV = nn.initializers.variance_scaling(1 / 2, "fan_in", "uniform")


def constrain_sharding(x: jax.Array, names: Mapping[int, str]) -> jax.Array:
    """x, sharded over devices where a training program has rules for these dimensions' names."""
    return nn.with_logical_constraint(x, tuple(names.get(axis) for axis in range(x.ndim)))


def uniform(bound: float) -> nn.initializers.Initializer:
    """Uniform in +-bound: with 1/sqrt(in), torch's default for a bias."""
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )


class LayerNorm(Leaves, nn.LayerNorm):
    """LayerNorm with statistics in float32 from two passes: E[x^2] - E[x]^2 cancels.

    In bfloat16 it is one pass, which saves a read of x: a mean whose square hides the variance in
    float32 is hundreds of deviations large, and beside it 8 bits cannot represent a deviation.
    """

    use_fast_variance: bool = False

    def __post_init__(self) -> None:
        self.use_fast_variance = self.dtype == jnp.bfloat16
        super().__post_init__()


class Embedding(nn.Embed):
    """A table of rows by number. Only the rows that are read are cast to `dtype`."""

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """[...] -> [..., d]."""
        return jnp.take(self.embedding, inputs, axis=0).astype(self.dtype or self.param_dtype)


class RMSNorm(Leaves, nn.RMSNorm):
    """x / rms(x) times a scale, with statistics in float32 (LLaMA, Section 2.2)."""


class Dense(Leaves, nn.Dense):
    """A dense layer [..., in] -> [..., out] that methods may add to (point 3).

    part: the module of a block that the layer is in; empty outside blocks. part_param: declares a
    leaf in that module's scope, or returns the one that another of its layers declared.
    """

    methods: tuple[Method, ...] = ()
    part: str = ""
    part_param: Callable[..., jax.Array] | None = None
    dot_general: Any = dot_general
    promote_dtype: Any = promoted

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = super().__call__(x)
        if self.has_variable("params", SCALE):  # the kernel is int8
            scale: jax.Array = self.get_variable("params", SCALE)
            y = (y.astype(jnp.float32) * scale).astype(y.dtype)
        for method in self.methods:
            y = method.projection(self, x, y)
        return y


class Mlp(nn.Module):
    """Two dense layers with an activation between them.

    gated: a third layer's activation multiplies the first's output, which gets none (SwiGLU).
    sub_norm: epsilon of a LayerNorm over the hidden units (EVA02); None for none.
    """

    width: int
    activation: str
    methods: tuple[Method, ...] = ()
    dtype: Any = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    gated: bool = False
    use_bias: bool = True
    sub_norm: float | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., d] -> [..., d]."""
        activation = ACTIVATIONS[self.activation]

        def dense(width: int, name: str) -> Dense:
            return Dense(
                width,
                use_bias=self.use_bias,
                methods=self.methods,
                part=self.name or "",
                dtype=self.dtype,
                kernel_init=self.kernel_init,
                name=name,
            )

        def hidden(name: str) -> jax.Array:
            return constrain_sharding(
                dense(self.width, name)(x), {0: "batch", x.ndim - 1: "hidden"}
            )

        y = hidden("fc1")
        y = activation(hidden("gate")) * y if self.gated else activation(y)
        if self.sub_norm is not None:
            y = LayerNorm(epsilon=self.sub_norm, dtype=self.dtype, name="sub_norm")(y)
        return dense(x.shape[-1], "fc2")(y)


class DropPath(nn.Module):
    """Stochastic depth: drops whole sequences, one decision per index of the first two axes."""

    rate: float

    def __call__(self, x: jax.Array) -> jax.Array:
        """x scaled by 1 / (1 - rate), or 0."""
        if not self.rate:
            return x
        shape = (*x.shape[:2], *[1] * (x.ndim - 2))
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, shape)
        return x * keep.astype(x.dtype) / (1 - self.rate)
