"""From a video's tokens to a language model's: a projection, or a Q-Former before one."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlt.models.activations import ACTIVATIONS
from vlt.models.attention import LOWEST
from vlt.models.bert import PostNormLayer
from vlt.models.layers import Dense, Embedding, LayerNorm
from vlt.models.spec import ChatSpec, QFormerSpec
from vlt.models.tokens import Pattern


class Connector(nn.Module):
    """Maps tokens of the vision tower's width to the language model's width.

    `linear` (LLaVA, arXiv:2304.08485, section 4.1) and `mlp` (LLaVA-1.5, arXiv:2310.03744, section
    3.2) keep their number; `qformer` returns as many as it has queries (BLIP-2, arXiv:2301.12597,
    section 3.1), however many it reads.
    """

    spec: ChatSpec
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, instruction: jax.Array | None = None, train: bool = False
    ) -> tuple[jax.Array, dict[str, Any]]:
        """x [b, n, d] and, for a Q-Former that reads them, ids [b, l] -> [b, k, D], and `out`.

        `out` has a Q-Former's output `queries` and, with an instruction, its states `instruction`.

        Raises:
            ValueError: an instruction is missing, or nothing reads it.
        """
        out: dict[str, jax.Array] = {}
        reads = self.spec.instructed
        if reads != (instruction is not None):
            raise ValueError(
                "this model's Q-Former reads an instruction beside each video: give its ids"
                if reads
                else f"an instruction, which this model's connector ({self.spec.connector}) "
                "does not read; it stands in the prompt alone"
            )
        if self.spec.qformer is not None:
            x, out = self._query(self.spec.qformer, x, instruction, train)
        if self.spec.connector == "mlp":
            x = self._dense("fc2")(ACTIVATIONS["gelu"](self._dense("fc1")(x)))
        else:
            x = self._dense("projection")(x)
        return x, out

    def _dense(self, name: str) -> Dense:
        width = self.spec.text.width
        return Dense(width, dtype=self.dtype, kernel_init=self.spec.text.init, name=name)

    def _query(
        self, spec: QFormerSpec, x: jax.Array, instruction: jax.Array | None, train: bool
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        source = LayerNorm(epsilon=spec.source_norm_eps, dtype=self.dtype, name="norm")(x)
        queries = self.param("queries", spec.init, (spec.queries, spec.width))
        states = QFormer(spec, self.dtype, name="qformer")(queries, source, instruction, train)
        found, words = states[:, : spec.queries], states[:, spec.queries :]
        return found, {"queries": found} | ({} if instruction is None else {"instruction": words})


class QFormer(nn.Module):
    """BERT's layers over learned queries and the words of an instruction, each with MLPs of their
    own; in some layers the queries, but not the words, read an image by cross-attention
    (InstructBLIP, arXiv:2305.06500, section 2.3)."""

    spec: QFormerSpec
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        queries: jax.Array,
        source: jax.Array,
        instruction: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Queries [q, d], source [b, m, s], ids [b, l] (0 for padding) -> states [b, q + l, d].

        Raises:
            ValueError: the instruction has more tokens than there are positions.
        """
        spec = self.spec
        x = jnp.broadcast_to(queries.astype(self.dtype), (len(source), *queries.shape))
        bias = None
        if instruction is not None:
            x = jnp.concatenate([x, self._words(instruction)], axis=1)
            read = jnp.pad(instruction != 0, ((0, 0), (spec.queries, 0)), constant_values=True)
            bias = jnp.where(read, 0.0, LOWEST)[:, None, None, None]
        x = LayerNorm(epsilon=spec.norm_eps, dtype=self.dtype, name="embedding_norm")(x)
        x = nn.Dropout(spec.dropout, deterministic=not train)(x)[:, None]
        for layer in range(spec.layers):
            x = QFormerLayer(spec, layer, (), train, self.dtype, name=f"blocks_{layer}")(
                x, source[:, None], bias
            )
        return x[:, 0]

    def _words(self, ids: jax.Array) -> jax.Array:
        spec = self.spec
        if ids.shape[1] > spec.context:
            raise ValueError(
                f"an instruction of {ids.shape[1]} tokens; the Q-Former has {spec.context} "
                "positions"
            )
        embedding = Embedding(
            spec.vocab,
            spec.width,
            embedding_init=spec.init,
            dtype=self.dtype,
            name="token_embedding",
        )
        table = self.param("position_embedding", spec.init, (spec.context, spec.width))
        return embedding(ids) + table[: ids.shape[1]].astype(self.dtype)


class QFormerLayer(PostNormLayer):
    """Self-attention of queries and words, cross-attention of queries, and an MLP for each."""

    spec: QFormerSpec

    @nn.compact
    def __call__(self, x: jax.Array, source: jax.Array, bias: jax.Array | None) -> jax.Array:
        """x [b, 1, q + l, d], source [b, 1, m, s] -> the shape of x. bias: for self-attention."""
        y, _ = self.attention("attention")(Pattern(x, x, bias=bias))
        x = self.add("attention_norm", x, y)
        queries, words = jnp.split(x, [self.spec.queries], axis=2)
        if self.layer % self.spec.cross_every == 0:
            y, _ = self.attention("cross_attention")(Pattern(queries, source))
            queries = self.add("cross_attention_norm", queries, y)
        queries = self.add("mlp_queries_norm", queries, self.mlp("mlp_queries")(queries))
        if words.shape[2]:
            words = self.add("mlp_norm", words, self.mlp()(words))
        return jnp.concatenate([queries, words], axis=2)
