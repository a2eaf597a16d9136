"""The pre-LN transformer block that every tower shares, and its parts."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlt.models.activations import ACTIVATIONS
from vlt.models.gradients import store_gradient
from vlt.models.narrow import SCALE
from vlt.models.points import Method, of_tower
from vlt.models.products import dot_general, promoted
from vlt.models.rotary import Rotary
from vlt.models.tokens import Attend, AttentionOutput, KeysValues, Pattern, Tokens

# Torch's default: uniform in +-1/sqrt(in), Kaiming's rule with a = sqrt(5).
KAIMING_UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# Its attention's, of queries, keys and values together: Xavier's rule for d inputs, 3 d outputs.
XAVIER_QKV = nn.initializers.variance_scaling(1 / 2, "fan_in", "uniform")
# Logits of one head from which on a CPU takes heads one by one, and in parts.
CPU_CHUNK_LOGITS = 2**20
LOWEST = float(jnp.finfo(jnp.float32).min)  # a bias of this hides a key


def constrain_sharding(x: jax.Array, names: Mapping[int, str]) -> jax.Array:
    """x, split among devices where a training program has rules for these dimensions' names."""
    return nn.with_logical_constraint(x, tuple(names.get(axis) for axis in range(x.ndim)))


def uniform(bound: float) -> nn.initializers.Initializer:
    """Uniform in +-bound: with 1/sqrt(in), torch's default for a bias."""
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )


class LayerNorm(nn.LayerNorm):
    """LayerNorm with statistics in float32 from two passes: E[x^2] - E[x]^2 cancels."""

    use_fast_variance: bool = False


class RMSNorm(nn.RMSNorm):
    """x / rms(x) times a scale, its statistics in float32 (LLaMA, Section 2.2)."""


class Dense(nn.Dense):
    """A dense layer [..., in] -> [..., out] that methods may add to (point 3).

    part: the module of a block that the layer is in; empty outside of blocks. part_param: declares
    a leaf in that module's scope, or hands back the one that another of its layers declared.
    """

    methods: tuple[Method, ...] = ()
    part: str = ""
    part_param: Callable[..., jax.Array] | None = None
    dot_general: Any = dot_general
    promote_dtype: Any = promoted

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = super().__call__(x)
        if self.has_variable("params", SCALE):  # of an int8 kernel
            scale: jax.Array = self.get_variable("params", SCALE)
            y = (y.astype(jnp.float32) * scale).astype(y.dtype)
        for method in self.methods:
            y = method.projection(self, x, y)
        return y


def written(known: jax.Array, new: jax.Array, index: jax.Array | int) -> jax.Array:
    """`known` [b, g, h, m, d], or with these three axes in one, with new [b, g, h, n, d] at `index`
    of m: in the shape of `known`."""
    new = new.reshape(*known.shape[:-2], *new.shape[-2:])
    axis = known.ndim - 2
    return jax.lax.dynamic_update_slice_in_dim(known, new, index, axis=axis)


def _led_as(key: jax.Array, x: jax.Array) -> jax.Array:
    """x [b, g, h, n, d] with these three axes in one where keys [..., m, d] have them so.

    In another shape XLA writes what a loop keeps twice, for who reads it and for who keeps it.
    """
    return x.reshape(*key.shape[:-2], *x.shape[-2:]) if key.ndim < x.ndim else x


def attention_logits(
    query: jax.Array, key: jax.Array, bias: jax.Array | None, scale: jax.Array | None = None
) -> jax.Array:
    """Scaled scores [..., q, m] in float32 from heads [..., q|m, d]."""
    shape, scaled = query.shape[:-1], _led_as(key, query * query.shape[-1] ** -0.5)
    logits = jnp.einsum("...qd,...md->...qm", scaled, key).astype(jnp.float32)
    logits = logits.reshape(*shape, -1) if key.ndim < query.ndim else logits
    logits = logits if scale is None else logits * scale
    return logits if bias is None else logits + bias


class Attention(nn.Module):
    """Multi-head attention within each group. qkv_bias: of queries, keys and values alike.

    out_bias: of the layer behind the heads.
    qkv_init: of the kernels of queries, keys and values; None for `kernel_init`, as of `out`.
    rotary: turns queries and keys by the pattern's places, where it has some.
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

    @nn.compact
    def __call__(
        self,
        pattern: Pattern,
        known: KeysValues | None = None,
        index: jax.Array | int | None = None,
    ) -> tuple[jax.Array, AttentionOutput]:
        """Queries [b, g, q, d] read the source [b, g, m, d]. Returns [b, g, q, d].

        known: keys, turned already, and values of earlier calls. Without `index` they are read in
        the source's place; with it the source's are written at that position among them, and all
        are read.
        """
        width = pattern.queries.shape[-1]

        def part_param(name: str, init: Callable[..., jax.Array], *args: Any) -> jax.Array:
            if self.has_variable("params", name):
                return self.get_variable("params", name)
            return self.param(name, init, *args)

        def dense(name: str, use_bias: bool = True) -> Dense:
            return Dense(
                width,
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

        query = split(dense("query", self.qkv_bias)(pattern.queries))
        query = turned(query, pattern.query_places)
        if known is not None and index is None:
            key, value = known.keys, known.values
        else:
            key = split(dense("key", self.qkv_bias and self.key_bias)(pattern.source))
            key = turned(key, pattern.source_places)
            value = split(dense("value", self.qkv_bias)(pattern.source))
        if pattern.gather is not None:
            key, value = pattern.gather(key), pattern.gather(value)
        if known is not None and index is not None:
            key, value = written(known.keys, key, index), written(known.values, value, index)
        y, probabilities = self._attend(query, key, value, pattern)
        y = y.swapaxes(-2, -3).reshape(pattern.queries.shape)
        return dense("out", self.out_bias)(y), AttentionOutput(key, value, probabilities)

    def _attend(
        self, query: jax.Array, key: jax.Array, value: jax.Array, pattern: Pattern
    ) -> tuple[jax.Array, Callable[[], jax.Array]]:
        """What queries find [b, g, h, q, d], and on call the probabilities [b, g, h, q, m]."""
        if pattern.attend is not None:
            return self._attend_apart(pattern.attend, query, key, value, pattern)
        if self._by_heads(query, key, pattern):
            y = jax.lax.platform_dependent(query, key, value, cpu=attend_by_heads, default=attend)
            return y, lambda: jnp.divide(*attention_weights(query, key))
        weights, total = attention_weights(query, key, pattern)
        kept = weights
        if self.dropout:
            kept = nn.Dropout(self.dropout, deterministic=False)(weights)
        return weighted_values(kept, total, value), lambda: weights / total

    def _attend_apart(
        self, attend: Attend, query: jax.Array, key: jax.Array, value: jax.Array, pattern: Pattern
    ) -> tuple[jax.Array, Callable[[], jax.Array]]:
        """`_attend` by a method's own function."""
        if self.dropout or not pattern.plain:
            raise ValueError(
                "Pattern.attend stands in the place of the softmax: no method beside it, mask or "
                "dropout may change logits or weights of keys"
            )

        def probabilities() -> jax.Array:
            raise ValueError("Pattern.attend: there is no one table of probabilities of all keys")

        return attend(query, key, value), probabilities

    def _by_heads(self, query: jax.Array, key: jax.Array, pattern: Pattern) -> bool:
        """Whether a CPU takes the heads one by one."""
        return (
            pattern.plain
            and not self.dropout
            and query.shape[-2] * key.shape[-2] >= CPU_CHUNK_LOGITS
        )


def attention_weights(
    query: jax.Array, key: jax.Array, pattern: Pattern | None = None
) -> tuple[jax.Array, jax.Array]:
    """Softmax of the logits before its division [..., q, m], and what it is divided by."""
    bias, scale = (None, None) if pattern is None else (pattern.bias, pattern.scale)
    logits = attention_logits(query, key, bias, scale)
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
    if pattern is not None and pattern.key_weight is not None:
        weights *= pattern.key_weight[:, :, None, None].astype(weights.dtype)
    return weights, weights.sum(-1, keepdims=True)


def weighted_values(weights: jax.Array, total: jax.Array, value: jax.Array) -> jax.Array:
    """What queries find [..., q, d], of `attention_weights` and values [..., m, d]."""
    known = _led_as(value, weights.astype(value.dtype))
    y = jnp.einsum("...qm,...md->...qd", known, value)
    y = y.reshape(*weights.shape[:-1], -1) if value.ndim < weights.ndim else y
    # The sum divides d columns after the product instead of m before it.
    return (y / total).astype(value.dtype)


def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Plain attention of heads, [..., q|m, d] -> [..., q, d]."""
    return weighted_values(*attention_weights(query, key), value)


def attend_by_heads(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """`attend`, some queries of one head after another, whose logits fit into a CPU's cache."""
    parts = -(-query.shape[-2] * key.shape[-2] // CPU_CHUNK_LOGITS)

    def one(head: tuple[jax.Array, ...]) -> jax.Array:
        # Without leading axes: a product of two matrices is faster than a batch of one.
        found = [attend(some, *head[1:]) for some in jnp.array_split(head[0], parts)]
        return jnp.concatenate(found)

    heads = tuple(x.reshape(-1, *x.shape[-2:]) for x in (query, key, value))
    return jax.lax.map(one, heads).reshape(query.shape)


class Mlp(nn.Module):
    """Two dense layers with an activation between them.

    gated: a third layer's activation multiplies the first's output, which has none (SwiGLU).
    """

    width: int
    activation: str
    methods: tuple[Method, ...] = ()
    dtype: Any = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    gated: bool = False
    use_bias: bool = True

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
        return dense(x.shape[-1], "fc2")(y)


class DropPath(nn.Module):
    """Stochastic depth: drops whole sequences, one decision an index of the first two axes."""

    rate: float

    def __call__(self, x: jax.Array) -> jax.Array:
        """x, or 0, at 1 / (1 - rate) times its size."""
        if not self.rate:
            return x
        shape = (*x.shape[:2], *[1] * (x.ndim - 2))
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, shape)
        return x * keep.astype(x.dtype) / (1 - self.rate)


class Block(nn.Module):
    """x + Attention(LN(x)), then x + MLP(LN(x)), with points 1 to 7 between.

    causal: tokens see those before them. tower, layer, depth: where the block stands, and how many
    the tower has, for methods to read.
    cls_read: nobody reads any but the CLS tokens afterwards. shared: modules that both towers use.
    drop_path: share of sequences, one a frame, whose attention or MLP is left out. rotary: how
    attention turns queries and keys by the tokens' places. llama: RMSNorm in the place of
    LayerNorm, a gated MLP, and no bias in any layer. remember: hand on keys and values, as
    `Tokens.cache`. kernel_init, qkv_init: of its layers' kernels, as in `Attention`.
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
            gated=self.llama,
            use_bias=not self.llama,
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
            name="attention",
        )

    def _read(self, tokens: Tokens, normed: jax.Array) -> tuple[Tokens, jax.Array]:
        """What of both is read after the block: all, or CLS tokens alone."""
        if not self.cls_read:
            return tokens, normed
        cls = tokens.cls
        return tokens.rearrange(lambda x: x[:, :, :cls], protected=cls), normed[:, :, :cls]

    def _attend(
        self, tokens: Tokens, normed: jax.Array, entry: Tokens, entry_normed: jax.Array
    ) -> tuple[Tokens, AttentionOutput]:
        """`entry`, those of the tokens that are read, after they attended to all."""
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
        """Added to the logits: which keys each token may read."""
        if not self.causal:
            return None
        length = tokens.x.shape[2]
        if tokens.cache is None or tokens.index is None:
            bias = causal_bias(length)
        else:
            bias = causal_bias_behind(tokens.index, length, tokens.cache.keys.shape[-2])
        if tokens.valid is None:
            return bias
        return jnp.where(tokens.valid[:, None, None, None], bias, LOWEST)


def causal_bias(length: int) -> jax.Array:
    """[l, l] zero up to the diagonal; finite above it, so that a row of nothing else is defined."""
    return jnp.triu(jnp.full((length, length), LOWEST), 1)


def causal_bias_behind(index: jax.Array | int, length: int, room: int) -> jax.Array:
    """[length, room] of tokens that stand from `index` on among `room` keys."""
    asked = index + jnp.arange(length)[:, None]
    return jnp.where(jnp.arange(room) > asked, LOWEST, 0.0)
