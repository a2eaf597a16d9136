"""Multi-head attention: a `Pattern` says who reads whom; what computes it is chosen here.

On accelerators it is a fused kernel if one supports the pattern (`vlt.models.fused`); on CPUs, long
sequences are computed head by head; otherwise it is a softmax between two products. A method that
asks for probabilities gets them from those products.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vlt.models.fused import Dropout, fused, packs
from vlt.models.layers import Dense, LayerNorm, constrain_sharding
from vlt.models.narrow import SCALE
from vlt.models.points import Method
from vlt.models.products import promoted
from vlt.models.rotary import Rotary
from vlt.models.tokens import Attend, AttentionOutput, KeysValues, Pattern

# Logits per head from which on a CPU computes heads one by one, and in parts.
CPU_CHUNK_LOGITS = 2**20
PARTS = ("query", "key", "value")
LOWEST = float(jnp.finfo(jnp.float32).min)  # a bias of this hides a key


class Attention(nn.Module):
    """Multi-head attention within each group. qkv_bias: whether queries, keys and values have one.

    inner_width: width of queries, keys and values, all heads together; 0 for that of the tokens.
    channel_scale: a learned scale of each query channel, the same in every head: softplus(x) /
    log 2, which is 1 at 0, where x starts (VideoPrism).
    out_bias: whether the layer after the heads has a bias.
    qkv_init: for the kernels of queries, keys and values; None for `kernel_init`, which `out` uses.
    rotary: turns queries and keys by the pattern's places, if it has any.
    logit_cap: c of c * tanh(logits / c), which bounds logits (VideoPrism); 0 for none.
    sub_norm: epsilon of a LayerNorm over the output of all heads (EVA02); None for none.
    """

    heads: int
    key_bias: bool = True
    methods: tuple[Method, ...] = ()
    dtype: Any = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros_init()
    dropout: float = 0.0
    qkv_bias: bool = True
    rotary: Rotary | None = None
    out_bias: bool = True
    qkv_init: nn.initializers.Initializer | None = None
    logit_cap: float = 0.0
    sub_norm: float | None = None
    inner_width: int = 0
    channel_scale: bool = False

    @nn.compact
    def __call__(
        self,
        pattern: Pattern,
        known: KeysValues | None = None,
        index: jax.Array | int | None = None,
    ) -> tuple[jax.Array, AttentionOutput]:
        """Queries [b, g, q, d] read the source [b, g, m, d]. Returns [b, g, q, d].

        known: keys, already turned, and values of earlier calls. Without `index` they are read
        instead of the source; with it, the source's are written into them at that position and all
        are read.
        """
        width = pattern.queries.shape[-1]
        inner_width = self.inner_width or width

        def part_param(name: str, init: Callable[..., jax.Array], *args: Any) -> jax.Array:
            if self.has_variable("params", name):
                return self.get_variable("params", name)
            return self.param(name, init, *args)

        def dense(name: str, use_bias: bool = True) -> Dense:
            return Dense(
                width if name == "out" else inner_width,
                use_bias=use_bias,
                methods=self.methods,
                part=self.name or "",
                part_param=part_param,
                dtype=self.dtype,
                kernel_init=(name != "out" and self.qkv_init) or self.kernel_init,
                bias_init=self.bias_init,
                name=name,
            )

        def split(x: jax.Array) -> jax.Array:
            x = x.reshape(*x.shape[:-1], self.heads, -1).swapaxes(-2, -3)
            return constrain_sharding(x, {0: "batch", 2: "heads"})

        def turned(x: jax.Array, places: jax.Array | None) -> jax.Array:
            return x if self.rotary is None or places is None else self.rotary(x, places)

        as_projected = self.rotary is None and known is None and not self.channel_scale
        packed = self._side_by_side(pattern) if as_projected else None
        parts = {} if packed is None else dict(zip(PARTS, jnp.split(packed, 3, -1), strict=True))

        def projected(name: str, x: jax.Array, use_bias: bool) -> jax.Array:
            return parts[name] if parts else dense(name, use_bias)(x)

        found = projected("query", pattern.queries, self.qkv_bias)
        query = turned(split(found), pattern.query_places)
        if self.channel_scale:
            scale = self.param("channel_scale", nn.initializers.zeros, query.shape[-1:])
            query *= (jax.nn.softplus(scale) / np.log(2)).astype(query.dtype)
        together = [found]
        unturned = None
        if known is not None and index is None:
            key, value = known.keys, known.values
        else:
            found = projected("key", pattern.source, self.qkv_bias and self.key_bias)
            key = split(found)
            if self.rotary is not None and pattern.source_places is not None:
                unturned, key = key, turned(key, pattern.source_places)
            of_values = projected("value", pattern.source, self.qkv_bias)
            value = split(of_values)
            together += [found, of_values]
        if pattern.gather is not None:
            key, value, as_projected = pattern.gather(key), pattern.gather(value), False
            unturned = None if unturned is None else pattern.gather(unturned)
        if known is not None and index is not None:
            key, value = written(known.keys, key, index), written(known.values, value, index)
        together = (together if packed is None else [packed]) if as_projected else []
        y, probabilities = self._attend(query, key, value, pattern, together)
        if self.sub_norm is not None:
            y = LayerNorm(epsilon=self.sub_norm, dtype=self.dtype, name="sub_norm")(y)
        attended = AttentionOutput(key, value, probabilities, unturned)
        return dense("out", self.out_bias)(y), attended

    def _side_by_side(self, pattern: Pattern) -> jax.Array | None:
        """Queries, keys and values of the same tokens, [b, g, n, 3 * d], of one product; None where
        no kernel takes them so, or something else has a part in one of them."""
        same = pattern.queries is pattern.source and pattern.gather is None
        apart = any(method.needs_apart() for method in self.methods)
        if not (same and packs()) or apart or self.is_initializing():
            return None
        leaves = self.variables["params"]
        layers = [leaves[name] for name in PARTS]
        if any(SCALE in layer for layer in layers):
            return None
        kernel = jnp.concatenate([layer["kernel"] for layer in layers], 1)
        zeros = jnp.zeros(kernel.shape[1] // 3)
        bias = jnp.concatenate([layer.get("bias", zeros) for layer in layers])
        x, kernel, bias = promoted(pattern.queries, kernel, bias, self.dtype)
        y = x @ kernel + bias
        for method in self.methods:
            y = method.projections(leaves, x, y)
        return y

    def _attend(
        self,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        pattern: Pattern,
        together: Sequence[jax.Array],
    ) -> tuple[jax.Array, Callable[[], jax.Array]]:
        """Attention's output [b, g, q, d], and a function for the probabilities [b, g, h, q, m].

        together: queries, keys and values [b, g, n, d] before the split into heads, or side by
        side in one array; none where they were changed since.
        """
        plain = pattern.attend is not None or self.logit_cap
        dropout = Dropout(self.dropout, lambda: self._kept(query, key)) if self.dropout else None
        if not plain and (known := fused(query, key, pattern, dropout)):
            y = known(*(together or map(heads_together, (query, key, value))))
            return y, lambda: jnp.divide(*attention_weights(query, key, pattern))
        y, probabilities = self._attend_heads(query, key, value, pattern)
        return heads_together(y), probabilities

    def _attend_heads(
        self, query: jax.Array, key: jax.Array, value: jax.Array, pattern: Pattern
    ) -> tuple[jax.Array, Callable[[], jax.Array]]:
        """Attention's output [b, g, h, q, d/h], and a function for the probabilities."""
        if pattern.attend is not None:
            return self._attend_apart(pattern.attend, query, key, value, pattern)
        if self._by_heads(query, key, pattern):
            forms = {"cpu": attend_by_heads, "default": attend}
            if self.logit_cap:
                forms = {k: functools.partial(f, cap=self.logit_cap) for k, f in forms.items()}
            y = jax.lax.platform_dependent(query, key, value, **forms)
            return y, lambda: jnp.divide(*attention_weights(query, key, cap=self.logit_cap))
        weights, total = attention_weights(query, key, pattern, self.logit_cap)
        kept = weights
        if self.dropout:
            kept = weights * self._kept(query, key) / (1 - self.dropout)
        return weighted_values(kept, total, value), lambda: weights / total

    def _kept(self, query: jax.Array, key: jax.Array) -> jax.Array:
        """For each logit [b, g, h, q, m], whether dropout keeps its probability."""
        ones = jnp.ones((*query.shape[:-1], key.shape[-2]), jnp.bfloat16)
        return nn.Dropout(self.dropout, deterministic=False)(ones) > 0

    def _attend_apart(
        self, attend: Attend, query: jax.Array, key: jax.Array, value: jax.Array, pattern: Pattern
    ) -> tuple[jax.Array, Callable[[], jax.Array]]:
        """`_attend_heads` with a method's own function."""
        if self.dropout or self.logit_cap or not pattern.plain:
            raise ValueError(
                "Pattern.attend replaces the softmax: no method beside it, mask, cap "
                "or dropout may change logits or weights of keys"
            )

        def probabilities() -> jax.Array:
            raise ValueError("Pattern.attend: no single table has the probabilities of all keys")

        return attend(query, key, value), probabilities

    def _by_heads(self, query: jax.Array, key: jax.Array, pattern: Pattern) -> bool:
        """Whether a CPU computes the heads one by one."""
        return (
            pattern.plain
            and not self.dropout
            and query.shape[-2] * key.shape[-2] >= CPU_CHUNK_LOGITS
        )


def heads_together(x: jax.Array) -> jax.Array:
    """[b, g, h, n, d/h] -> [b, g, n, d], the layout of dense layers."""
    return x.swapaxes(-2, -3).reshape(*x.shape[:-3], x.shape[-2], x.shape[-3] * x.shape[-1])


def attend(query: jax.Array, key: jax.Array, value: jax.Array, cap: float = 0.0) -> jax.Array:
    """Plain attention of heads, [..., q|m, d] -> [..., q, d]. cap: `Attention.logit_cap`."""
    return weighted_values(*attention_weights(query, key, cap=cap), value)


def attend_by_heads(
    query: jax.Array, key: jax.Array, value: jax.Array, cap: float = 0.0
) -> jax.Array:
    """`attend` head by head, a few queries at a time, so that logits fit into a CPU's cache."""
    parts = -(-query.shape[-2] * key.shape[-2] // CPU_CHUNK_LOGITS)

    def one(head: tuple[jax.Array, ...]) -> jax.Array:
        # Without leading axes: a product of two matrices is faster than a batch of one.
        query, key, value = head
        found = [attend(some, key, value, cap) for some in jnp.array_split(query, parts)]
        return jnp.concatenate(found)

    heads = tuple(x.reshape(-1, *x.shape[-2:]) for x in (query, key, value))
    return jax.lax.map(one, heads).reshape(query.shape)


def attention_weights(
    query: jax.Array, key: jax.Array, pattern: Pattern | None = None, cap: float = 0.0
) -> tuple[jax.Array, jax.Array]:
    """Unnormalised softmax of the logits [..., q, m], and the sums to divide it by."""
    bias, scale = (None, None) if pattern is None else (pattern.bias, pattern.scale)
    logits = attention_logits(query, key, bias, scale, cap)
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
    if pattern is not None and pattern.key_weight is not None:
        weights *= pattern.key_weight[:, :, None, None].astype(weights.dtype)
    return weights, weights.sum(-1, keepdims=True)


def weighted_values(weights: jax.Array, total: jax.Array, value: jax.Array) -> jax.Array:
    """Attention's output [..., q, d] from `attention_weights` and values [..., m, d]."""
    known = _led_as(value, weights.astype(value.dtype))
    y = jnp.einsum("...qm,...md->...qd", known, value)
    y = y.reshape(*weights.shape[:-1], -1) if value.ndim < weights.ndim else y
    # The sum divides d columns after the product instead of m before it.
    return (y / total).astype(value.dtype)


def attention_logits(
    query: jax.Array,
    key: jax.Array,
    bias: jax.Array | None,
    scale: jax.Array | None = None,
    cap: float = 0.0,
) -> jax.Array:
    """Scaled scores [..., q, m] in float32 from heads [..., q|m, d], capped before a bias."""
    shape, scaled = query.shape[:-1], _led_as(key, query * query.shape[-1] ** -0.5)
    product = "...qd,...md->...qm"
    logits = jnp.einsum(product, scaled, key, preferred_element_type=jnp.float32)
    logits = logits.reshape(*shape, -1) if key.ndim < query.ndim else logits
    logits = logits if scale is None else logits * scale
    logits = cap * jnp.tanh(logits / cap) if cap else logits
    return logits if bias is None else logits + bias


def written(known: jax.Array, new: jax.Array, index: jax.Array | int) -> jax.Array:
    """`known` with `new` [b, g, h, n, d] written at `index` of its axis m.

    known: [b, g, h, m, d], or with the first three axes merged into one, as in the result.
    """
    new = new.reshape(*known.shape[:-2], *new.shape[-2:])
    axis = known.ndim - 2
    return jax.lax.dynamic_update_slice_in_dim(known, new, index, axis=axis)


def _led_as(key: jax.Array, x: jax.Array) -> jax.Array:
    """x [b, g, h, n, d] with its first three axes merged where those of keys [..., m, d] are.

    With unlike shapes, XLA writes an array that a loop carries twice: to read it and to keep it.
    """
    return x.reshape(*key.shape[:-2], *x.shape[-2:]) if key.ndim < x.ndim else x


def causal_bias(length: int) -> jax.Array:
    """[l, l], 0 up to the diagonal; finite above it, so that a fully masked row is defined."""
    return jnp.triu(jnp.full((length, length), LOWEST), 1)


def causal_bias_behind(index: jax.Array | int, length: int, room: int) -> jax.Array:
    """`causal_bias` [length, room] for tokens at positions from `index` on among `room` keys."""
    asked = index + jnp.arange(length)[:, None]
    return jnp.where(jnp.arange(room) > asked, LOWEST, 0.0)
