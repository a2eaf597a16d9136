"""BLIP's text model: BERT that may read an image or video by cross-attention (Li et al., MED).

The same layers encode texts (bidirectional), match them with a video (the same, with
cross-attention) and write captions (causal, with cross-attention and a language-model head).
Post-LN throughout (BLIP, arXiv:2201.12086, section 3.1).

UMT's (Li et al., ICCV 2023) reads a video in its last layers only, so that a text by itself passes
through the earlier layers, and their output can go on into the last ones.
"""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from vlt.models.activations import ACTIVATIONS
from vlt.models.attention import LOWEST, Attention, causal_bias, causal_bias_behind
from vlt.models.layers import Dense, Embedding, LayerNorm, Mlp, constrain_sharding
from vlt.models.points import Method, of_tower
from vlt.models.spec import BertSpec, QFormerSpec
from vlt.models.tokens import KeysValues, Pattern


def beginning_with(token: int, ids: jax.Array) -> jax.Array:
    """ids [..., l], on device or host, with each text's first token replaced by `token`."""
    return jnp.asarray(ids).at[..., 0].set(token)


class Memory(flax.struct.PyTreeNode):
    """What a layer has read: keys and values of its text and of its cross-attention's source."""

    own: KeysValues
    source: KeysValues | None


class Bert(nn.Module):
    """Embeddings, post-LN layers and, with `head`, logits over the vocabulary.

    Groups of a text [b, g, l] (beams) read the same source and do not read each other.
    """

    spec: BertSpec
    methods: tuple[Method, ...] = ()
    head: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        ids: jax.Array,
        source: jax.Array | None = None,
        *,
        causal: bool = False,
        source_bias: jax.Array | None = None,
        memory: list[Memory] | None = None,
        index: jax.Array | int = 0,
        train: bool = False,
        alone: bool = False,
        states: jax.Array | None = None,
        to_words: bool = True,
    ) -> tuple[jax.Array, list[Memory]]:
        """ids [b, g, l], source [b, m, s] -> hidden states [b, g, l, d] or logits [b, g, l, v].

        Args:
            alone: run only the first `BertSpec.text_layers` layers. states: [b, g, l, d] output of
                those layers, to start from instead. to_words: return logits if there is a `head`.
            causal: tokens see only themselves and those before; otherwise all but padding (id 0).
            source_bias: [b, m] added to the logits of cross-attention, to mask the source.
            memory: keys and values of earlier calls: the text's, with room for this call's at
                `index`, and the source's, which are read instead of `source`.

        Also returns the memory after this call. Hidden states have `dtype`, logits float32.
        """
        spec = self.spec
        embedding = Embedding(
            spec.vocab,
            spec.width,
            embedding_init=self.spec.init,
            dtype=self.dtype,
            name="token_embedding",
        )
        x = self._embed(embedding, ids, index, train) if states is None else states
        length = ids.shape[-1] if memory is None else memory[0].own.keys.shape[3]
        bias = self._bias(ids, causal, index, length)
        memories = []
        methods = of_tower(self.methods, "text")
        first = 0 if states is None else spec.text_layers
        for layer in range(first, spec.text_layers if alone else spec.layers):
            known = None if memory is None else memory[layer]
            crossed = source if layer >= spec.fusion_layer else None
            x, read = BertLayer(spec, layer, methods, train, self.dtype, name=f"blocks_{layer}")(
                x, bias, crossed, source_bias, known, index
            )
            memories.append(read)
        return (self._logits(embedding, x) if self.head and to_words else x), memories

    def _embed(
        self, embedding: Embedding, ids: jax.Array, index: jax.Array | int, train: bool
    ) -> jax.Array:
        spec = self.spec
        if ids.shape[-1] > spec.context:
            raise ValueError(f"{ids.shape[-1]} text tokens; the model has {spec.context} positions")
        table = self.param("position_embedding", self.spec.init, (spec.context, spec.width))
        position = jax.lax.dynamic_slice_in_dim(table, index, ids.shape[-1])
        x = embedding(ids) + position.astype(self.dtype)
        if spec.token_types:
            shape = (spec.token_types, spec.width)
            x += self.param("type_embedding", spec.init, shape)[0].astype(self.dtype)
        x = LayerNorm(epsilon=spec.norm_eps, dtype=self.dtype, name="embedding_norm")(x)
        return nn.Dropout(spec.dropout, deterministic=not train)(x)

    def _bias(self, ids: jax.Array, causal: bool, index: jax.Array | int, length: int) -> jax.Array:
        """Mask of self-attention, broadcastable to [b, g, h, l, length]."""
        if not causal:
            return jnp.where(ids == 0, LOWEST, 0.0)[:, :, None, None]
        if length == ids.shape[-1]:
            return causal_bias(length)
        return causal_bias_behind(index, ids.shape[-1], length)

    def _logits(self, embedding: Embedding, x: jax.Array) -> jax.Array:
        return LanguageHead(self.spec, self.dtype, name="lm_head")(x, embedding.embedding)


class PostNormLayer(nn.Module):
    """Parts of a layer that has a LayerNorm after each sum."""

    spec: BertSpec | QFormerSpec
    layer: int
    methods: tuple[Method, ...]
    train: bool
    dtype: Any

    def attention(self, name: str) -> Attention:
        """An attention layer, for queries, keys and values of any width."""
        return Attention(
            self.spec.heads,
            methods=self.methods,
            dtype=self.dtype,
            kernel_init=self.spec.init,
            dropout=self.spec.dropout * self.train,
            name=name,
        )

    def mlp(self, name: str = "mlp") -> Mlp:
        """The MLP of two dense layers."""
        spec = self.spec
        return Mlp(spec.mlp_width, spec.activation, self.methods, self.dtype, spec.init, name=name)

    def add(self, norm: str, x: jax.Array, y: jax.Array) -> jax.Array:
        """LayerNorm(x + y)."""
        y = nn.Dropout(self.spec.dropout, deterministic=not self.train)(y)
        return LayerNorm(epsilon=self.spec.norm_eps, dtype=self.dtype, name=norm)(
            constrain_sharding(x + y, {0: "batch"})
        )


class BertLayer(PostNormLayer):
    """Self-attention, cross-attention where there is a source, MLP; LayerNorm after each sum."""

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        bias: jax.Array,
        source: jax.Array | None,
        source_bias: jax.Array | None,
        memory: Memory | None,
        index: jax.Array | int,
    ) -> tuple[jax.Array, Memory]:
        """x [b, g, l, d] -> the same shape, and the keys and values that were read."""
        own, crossed = (None, None) if memory is None else (memory.own, memory.source)
        y, attended = self.attention("attention")(
            Pattern(x, x, bias=bias), own, None if own is None else index
        )
        x = self.add("attention_norm", x, y)
        read = KeysValues(attended.keys, attended.values)
        if source is not None or crossed is not None:
            # All groups of a text read one source, whose keys then pass through memory once.
            queries = x.reshape(x.shape[0], 1, -1, x.shape[-1])
            keys = queries if source is None else source[:, None].astype(self.dtype)
            mask = None if source_bias is None else source_bias[:, None, None, None]
            pattern = Pattern(queries, keys, bias=mask)
            y, attended = self.attention("cross_attention")(pattern, crossed)
            crossed = KeysValues(attended.keys, attended.values)
            x = self.add("cross_attention_norm", x, y.reshape(x.shape))
        return self.add("mlp_norm", x, self.mlp()(x)), Memory(read, crossed)


class LanguageHead(nn.Module):
    """Logits over the vocabulary, with the word embeddings as the last layer's weights."""

    spec: BertSpec
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, embedding: jax.Array) -> jax.Array:
        """Hidden states [..., d] and embeddings [v, d] -> float32 [..., v]."""
        spec = self.spec
        x = Dense(spec.width, dtype=self.dtype, kernel_init=self.spec.init, name="transform")(x)
        x = ACTIVATIONS[spec.activation](x)
        x = LayerNorm(epsilon=spec.norm_eps, dtype=self.dtype, name="norm")(x)
        logits = jnp.einsum(
            "...d,vd->...v", x, embedding.astype(self.dtype), preferred_element_type=jnp.float32
        )
        return logits + self.param("bias", nn.initializers.zeros, (spec.vocab,))
