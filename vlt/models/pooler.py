"""Attention pooling: one learned query reads the tokens of a frame."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlt.models.attention import Attention
from vlt.models.layers import LayerNorm, Mlp
from vlt.models.points import Method
from vlt.models.spec import VisionSpec
from vlt.models.tokens import Pattern


class Pooler(nn.Module):
    """y = Attention(probe, tokens), then y + MLP(LN(y)), or LN(y) where there is no MLP.

    Zhai et al., arXiv:2106.04560, Section 2.2: multihead attention pooling. The probe has no
    residual connection. spec: the tower's, for its activation and epsilon. methods: those that are
    called for its dense layers, at point 3.
    """

    spec: VisionSpec
    methods: tuple[Method, ...] = ()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, size: jax.Array | None) -> jax.Array:
        """Tokens [b, g, n, d] -> [b, g, 1, d]; each counts as often as `size` [b, g, n] says."""
        spec, pooler = self.spec, self.spec.pooler
        assert pooler is not None
        init = nn.initializers.normal(spec.width**-0.5)
        probe = self.param("probe", init, (spec.width,)).astype(self.dtype)
        queries = jnp.broadcast_to(probe, (*x.shape[:2], 1, spec.width))
        attention = Attention(
            pooler.heads,
            methods=self.methods,
            dtype=self.dtype,
            inner_width=pooler.width,
            channel_scale=pooler.channel_scale,
            name="cross_attention",
        )
        y, _ = attention(Pattern(queries, x, key_weight=size))
        normed = LayerNorm(epsilon=spec.norm_eps, dtype=self.dtype, name="norm")(y)
        if not pooler.mlp_width:
            return normed
        mlp = Mlp(pooler.mlp_width, spec.activation, self.methods, self.dtype, name="mlp")
        return y + mlp(normed)
