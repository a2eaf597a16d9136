"""The pre-LN transformer block that every tower shares."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlt.models.attention import LOWEST, Attention, causal_bias, causal_bias_behind
from vlt.models.gradients import store_gradient
from vlt.models.layers import DropPath, LayerNorm, Mlp, RMSNorm, constrain_sharding
from vlt.models.points import Method, of_tower
from vlt.models.rotary import Rotary
from vlt.models.tokens import AttentionOutput, KeysValues, Pattern, Tokens


class Block(nn.Module):
    """x + Attention(LN(x)), then x + MLP(LN(x)), with points 1 to 7 between.

    causal: tokens see only themselves and those before. tower, layer, depth: where the block stands
    and how many blocks its tower has, for methods to read.
    cls_read: only the CLS tokens are read afterwards. shared: modules that both towers use.
    drop_path: share of sequences, one per frame, whose attention or MLP is dropped. rotary: how
    attention turns queries and keys by the tokens' places. llama: RMSNorm instead of LayerNorm, a
    gated MLP, and no bias in any layer. remember: pass keys and values on as `Tokens.cache`.
    kernel_init, qkv_init, logit_cap: as in `Attention`. gated, sub_norm: as
    `VisionSpec.gated_mlp` and `sub_norm`.
    """

    heads: int
    mlp_width: int
    activation: str
    norm_eps: float
    key_bias: bool = True
    causal: bool = False
    methods: tuple[Method, ...] = ()
    tower: str = "visual"
    layer: int = 0
    depth: int = 1
    cls_read: bool = False
    train: bool = False
    drop_path: float = 0.0
    shared: Mapping[str, nn.Module] | None = None
    dtype: Any = jnp.float32
    qkv_bias: bool = True
    rotary: Rotary | None = None
    llama: bool = False
    remember: bool = False
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    qkv_init: nn.initializers.Initializer | None = None
    logit_cap: float = 0.0
    gated: bool = False
    sub_norm: bool = False

    @property
    def active(self) -> tuple[Method, ...]:
        """The methods of this tower."""
        return of_tower(self.methods, self.tower)

    @nn.compact
    def __call__(self, tokens: Tokens) -> Tokens:
        """tokens.x [b, g, n, d] -> the same, or what methods make of it."""
        tokens = tokens.replace(x=store_gradient(constrain_sharding(tokens.x, {0: "batch"})))
        for method in self.active:
            tokens = method.before_attention(self, tokens)
        for method in self.active:
            tokens = method.extra_tokens(self, tokens)
        normed = self._norm("norm1")(tokens.x)
        entry, entry_normed = self._read(tokens, normed)
        tokens, attended = self._attend(tokens, normed, entry, entry_normed)
        for method in self.active:
            tokens = method.after_attention(self, tokens, attended)
        tokens = tokens.replace(x=store_gradient(tokens.x))
        normed = self._norm("norm2")(tokens.x)
        y = self._mlp()(normed)
        if tokens.absent is not None:
            y = jnp.where(tokens.absent[..., None], 0, y)
        for method in self.active:
            y = method.mlp_path(self, entry, tokens, normed, y)
        tokens = tokens.replace(x=tokens.x + DropPath(self.drop_path)(y))
        for method in self.active:
            tokens = method.parallel_block(self, entry, entry_normed, tokens)
        for method in self.active:
            tokens = method.after_block(self, tokens)
        return tokens

    def _norm(self, name: str) -> LayerNorm | RMSNorm:
        norm = RMSNorm if self.llama else LayerNorm
        return norm(epsilon=self.norm_eps, dtype=self.dtype, name=name)

    def _mlp(self) -> nn.Module:
        return Mlp(
            self.mlp_width,
            self.activation,
            self.active,
            self.dtype,
            self.kernel_init,
            gated=self.gated or self.llama,
            use_bias=not self.llama,
            sub_norm=self.norm_eps if self.sub_norm else None,
            name="mlp",
        )

    def _attention(self) -> Attention:
        return Attention(
            self.heads,
            self.key_bias,
            self.active,
            self.dtype,
            self.kernel_init,
            qkv_init=self.qkv_init,
            qkv_bias=self.qkv_bias and not self.llama,
            rotary=self.rotary,
            out_bias=not self.llama,
            logit_cap=self.logit_cap,
            sub_norm=self.norm_eps if self.sub_norm else None,
            name="attention",
        )

    def _read(self, tokens: Tokens, normed: jax.Array) -> tuple[Tokens, jax.Array]:
        """The part of both that is read after the block: all tokens, or only the CLS tokens."""
        if not self.cls_read:
            return tokens, normed
        cls = tokens.cls
        return tokens.rearrange(lambda x: x[:, :, :cls], protected=cls), normed[:, :, :cls]

    def _attend(
        self, tokens: Tokens, normed: jax.Array, entry: Tokens, entry_normed: jax.Array
    ) -> tuple[Tokens, AttentionOutput]:
        """`entry`, the tokens that are read afterwards, once they have attended to all tokens."""
        pattern = Pattern(
            entry_normed,
            normed,
            self._mask(tokens),
            query_places=entry.places,
            source_places=tokens.places,
        )
        for method in self.active:
            pattern = method.attention_pattern(self, tokens, pattern)
        y, attended = self._attention()(pattern, tokens.cache, tokens.index)
        if self.remember:
            entry = entry.replace(cache=KeysValues(attended.keys, attended.values))
        y = y.reshape(entry.x.shape)
        for method in self.active:
            y = method.parallel_attention(self, entry, entry_normed, y)
        return entry.replace(x=entry.x + DropPath(self.drop_path)(y)), attended

    def _mask(self, tokens: Tokens) -> jax.Array | None:
        """Bias of the logits that says which keys each token may read; None for all."""
        if tokens.absent is not None:
            return jnp.where(tokens.absent[:, :, None, None], LOWEST, 0.0)
        if not self.causal and tokens.valid is None:
            return None
        length = tokens.x.shape[2]
        if not self.causal:
            bias = jnp.zeros(())
        elif tokens.cache is None or tokens.index is None:
            bias = causal_bias(length)
        else:
            bias = causal_bias_behind(tokens.index, length, tokens.cache.keys.shape[-2])
        if tokens.valid is None:
            return bias
        return jnp.where(tokens.valid[:, None, None, None], bias, LOWEST)
