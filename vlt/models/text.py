"""The text tower of CLIP and its descendants."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vlt.models.block import Block
from vlt.models.interpolation import sinusoid_halves
from vlt.models.layers import Dense, Embedding, LayerNorm
from vlt.models.points import Method, of_tower
from vlt.models.remat import rematerialised
from vlt.models.spec import TextSpec
from vlt.models.tokens import Tokens


class TextTransformer(nn.Module):
    """Transformer over the words of a text, one of which is read: `TextSpec` says which."""

    tower: ClassVar[str] = "text"

    spec: TextSpec
    embed_dim: int
    methods: tuple[Method, ...] = ()
    shared: Mapping[str, nn.Module] | None = None
    remat: str = "none"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        ids: jax.Array,
        train: bool = False,
        capture: bool = False,
        classes: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """ids [b, l] -> embedding [b, e], not normalised, and `out` (`Tokens` with `capture`).

        classes: [b] the texts' classes, for methods that have learned something for each.
        """
        tokens = self._stem(ids, classes)
        out: dict[str, Any] = {"stem": tokens} if capture else {}
        for layer in range(self.spec.layers):
            tokens = self._block(layer, train)(tokens)
            if capture:
                out[f"block_{layer}"] = tokens
        norm = LayerNorm(epsilon=self.spec.norm_eps, dtype=self.dtype, name="final_norm")
        x = norm(tokens.x[:, 0])
        assert tokens.readout is not None
        pooled = jnp.take_along_axis(x, tokens.readout[:, None, None], axis=1)[:, 0]
        projection = self._projection()
        features = projection(pooled).astype(jnp.float32)
        if any("tokens" in method.text_extras for method in self.methods):
            out["tokens"] = projection(x).astype(jnp.float32)
            out["words"] = jnp.arange(x.shape[1]) <= tokens.readout[:, None]
        for method in self._active:
            features, extra = method.text_head(self, features, train)
            out.update(extra)
        return features, out

    @property
    def _active(self) -> tuple[Method, ...]:
        return of_tower(self.methods, self.tower)

    def _projection(self) -> Callable[[jax.Array], jax.Array]:
        """The projection into the joint space, [..., d] -> [..., e]."""
        if not self.spec.projection:
            return lambda x: x
        return Dense(
            self.embed_dim,
            use_bias=self.spec.projection_bias,
            methods=self.methods,
            dtype=self.dtype,
            kernel_init=nn.initializers.normal(self.spec.width**-0.5),
            name="projection",
        )

    def _stem(self, ids: jax.Array, classes: jax.Array | None) -> Tokens:
        spec = self.spec
        if ids.shape[1] > spec.context:
            raise ValueError(
                f"{ids.shape[1]} text tokens, but the tower's context is {spec.context}"
            )
        embedding = Embedding(
            spec.vocab,
            spec.width,
            embedding_init=nn.initializers.normal(0.02),
            dtype=self.dtype,
            name="token_embedding",
        )
        words = self._scaled(embedding(ids)[:, None])
        valid = ids != spec.pad_id if spec.mask_padding else None
        tokens = Tokens(
            words, readout=_readout(ids, spec), classes=classes, cls=0, protected=0, valid=valid
        )
        for method in self._active:
            tokens = method.embed(self, tokens)
        length = tokens.x.shape[2]
        if length > spec.context:
            raise ValueError(
                f"{ids.shape[1]} text tokens and {length - ids.shape[1]} of methods, but "
                f"the tower's context is {spec.context}"
            )
        if spec.whole and not self.is_initializing() and length < spec.context:
            raise ValueError(
                f"{ids.shape[1]} text tokens, but the tower reads the last of {spec.context}: pad"
            )
        tokens = tokens.replace(x=tokens.x + self._positions()[:length].astype(self.dtype))
        if spec.class_token:
            tokens = self._with_class_token(tokens)
        for method in self._active:
            tokens = method.stem(self, tokens)
        return tokens

    def _positions(self) -> jax.Array | np.ndarray:
        """Positions of the whole context, [l, d]."""
        shape = self.spec.context, self.spec.width
        if self.spec.positions == "sinusoid":
            return sinusoid_halves(*shape)
        return self.param("position_embedding", nn.initializers.normal(0.01), shape)

    def _scaled(self, embedded: jax.Array) -> jax.Array:
        return embedded * self.spec.width**0.5 if self.spec.embedding_scale else embedded

    def _with_class_token(self, tokens: Tokens) -> Tokens:
        """Appends the class token, which is the one read in the end."""
        b, _, length, width = tokens.x.shape
        token = self.param("class_embedding", nn.initializers.normal(width**-0.5), (width,))
        token = self._scaled(token.astype(self.dtype))
        grown = tokens.insert(length, token[None], protected=False)
        return grown.replace(readout=jnp.full((b,), length))

    def _block(self, layer: int, train: bool) -> Block:
        spec = self.spec
        block = rematerialised(Block, self.remat)
        return block(
            spec.heads,
            spec.mlp_width,
            spec.activation,
            spec.norm_eps,
            causal=spec.causal,
            methods=self.methods,
            tower="text",
            layer=layer,
            depth=spec.layers,
            train=train,
            shared=self.shared,
            dtype=self.dtype,
            logit_cap=spec.logit_cap,
            name=f"blocks_{layer}",
        )


def _readout(ids: jax.Array, spec: TextSpec) -> jax.Array:
    """Index [b] of the token that is read in the end, for texts of ids [b, l]."""
    if spec.readout == "last":
        return jnp.full(ids.shape[:1], ids.shape[1] - 1)
    return (ids if spec.readout == "highest" else ids == spec.end_id).argmax(-1)
