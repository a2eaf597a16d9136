"""LLaMA (arXiv:2302.13971): a causal decoder of words and what stands beside them in a prompt.

Section 2.2 of the paper: RMSNorm before each sublayer, rotary positions, SwiGLU; no biases.
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlt.models.block import Block
from vlt.models.layers import Dense, Embedding, RMSNorm
from vlt.models.points import Method, of_tower
from vlt.models.remat import rematerialised
from vlt.models.rotary import Rotary
from vlt.models.spec import LlamaSpec
from vlt.models.tokens import KeysValues, Tokens


class Llama(nn.Module):
    """Embeddings of words, causal blocks, and a head over the vocabulary.

    Groups of a batch [b, g, l] (beams) do not read each other. remat: a key of
    `vlt.models.remat.POLICIES`.
    """

    tower: ClassVar[str] = "text"

    spec: LlamaSpec
    methods: tuple[Method, ...] = ()
    remat: str = "none"
    dtype: Any = jnp.float32

    def setup(self) -> None:
        spec = self.spec
        self._own_rows = sum(method.word_rows for method in self._active)
        self.token_embedding = Embedding(
            spec.vocab - self._own_rows, spec.width, embedding_init=spec.init, dtype=self.dtype
        )
        if self._own_rows:
            shape = (self._own_rows, spec.width)
            self.token_rows = self.param("token_rows", spec.init, shape)
        self.final_norm = RMSNorm(epsilon=spec.norm_eps, dtype=self.dtype)
        self.head = Dense(
            spec.vocab,
            use_bias=False,
            methods=self.methods,
            dtype=self.dtype,
            kernel_init=spec.init,
        )

    def embed(self, ids: jax.Array) -> jax.Array:
        """ids [..., l] -> [..., l, d]."""
        if not self._own_rows:
            return self.token_embedding(ids)
        first = self.spec.vocab - self._own_rows
        own = self.token_rows.astype(self.dtype)[jnp.maximum(ids - first, 0)]
        table = self.token_embedding(jnp.minimum(ids, first - 1))
        return jnp.where((ids >= first)[..., None], own, table)

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        places: jax.Array,
        valid: jax.Array | None = None,
        cache: list[KeysValues] | None = None,
        index: jax.Array | int | None = None,
        remember: bool = False,
        train: bool = False,
    ) -> tuple[jax.Array, list[KeysValues]]:
        """Embeddings x [b, g, l, d] at places [b, l] -> the last block's normed states, same shape.

        Args:
            valid: [b, m] which keys may be read, those in `cache` included; None for all. Places
                count only valid tokens, whatever stands between them.
            cache: keys and values of each block's earlier calls, with room for this one's at
                `index`. Methods' prompts precede them and count neither there nor in `valid`.
            remember: also return keys and values of each block, those of the cache included.

        Raises:
            ValueError: `valid` is for another number of keys than the cache has.
        """
        turned = jnp.broadcast_to(places[:, None, :, None], (*x.shape[:3], 1))
        if cache is not None and (prompts := word_prompts(self.methods)):
            assert index is not None
            index, valid = index + prompts, _behind(prompts, valid, cache[0].keys.shape[-2])
        tokens = Tokens(x, cls=0, protected=0, places=turned, valid=valid, index=index)
        if cache is None:
            for method in self._active:
                tokens = method.embed(self, tokens)
            for method in self._active:
                tokens = method.stem(self, tokens)
        read = []
        for layer in range(self.spec.layers):
            known = None if cache is None else cache[layer]
            tokens = self._block(layer, remember, train)(tokens.replace(cache=known))
            if remember:
                assert tokens.cache is not None
                read.append(tokens.cache)
        if prompts := tokens.x.shape[2] - x.shape[2]:
            tokens = tokens.remove(0, prompts)
        return self.final_norm(tokens.x), read

    @property
    def _active(self) -> tuple[Method, ...]:
        return of_tower(self.methods, self.tower)

    def logits(self, states: jax.Array) -> jax.Array:
        """Normed states [..., d] -> float32 [..., v]."""
        return self.head(states).astype(jnp.float32)

    def _block(self, layer: int, remember: bool, train: bool) -> Block:
        spec = self.spec
        block = rematerialised(Block, self.remat)
        return block(
            spec.heads,
            spec.mlp_width,
            spec.activation,
            spec.norm_eps,
            causal=True,
            methods=self.methods,
            tower=self.tower,
            layer=layer,
            depth=spec.layers,
            train=train,
            dtype=self.dtype,
            rotary=Rotary(spec.rotary_base),
            llama=True,
            remember=remember,
            name=f"blocks_{layer}",
        )


def word_prompts(methods: tuple[Method, ...]) -> int:
    """Number of keys in a cache that are of methods' prompts, in front of all others."""
    return sum(method.word_prompts for method in of_tower(methods, Llama.tower))


def _behind(prompts: int, valid: jax.Array | None, room: int) -> jax.Array | None:
    """`valid` [b, m] of keys, preceded by that of the prompts' keys, which are all valid."""
    if valid is None:
        return None
    if prompts + valid.shape[1] != room:
        raise ValueError(
            f"a cache of {room} keys, {prompts} of them prompts, and valid for {valid.shape[1]}: "
            "lengthen what was remembered by the tokens that are to come"
        )
    return jnp.pad(valid, ((0, 0), (prompts, 0)), constant_values=True)
