"""Mug: scores of a video and a text by frames and words that choose each other.

Mug-STAN, Liu et al., arXiv:2311.15075, Section 3.3. S [l, t] are the cosines of words and frames.
Each word reads the frames by softmax(tau S), each frame reads the words, and what they find decides
how much they count:

    u_i = sum_j softmax_j(tau S)_ij S_ij;  w_j = sum_i softmax_i(tau S)_ij S_ij
    score = (sum_i softmax_i(tau u)_i u_i + sum_j softmax_j(tau w)_j w_j) / 2
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from vlt.models.options import require_some
from vlt.models.points import Embedded, Method, Scope
from vlt.models.vit import normalize

INTERACTIONS = ("mug_frame_token_simple", "mug_frame_token", "mug_frame_text")
LOWEST = float(jnp.finfo(jnp.float32).min)


@dataclasses.dataclass(frozen=True)
class Mug(Method):
    """No leaves: another score of the same embeddings.

    interaction: `mug_frame_token_simple`, as above; `mug_frame_token`, which weights words and
        frames by their similarity to the mean of what they read, and takes the product of the sum
        of words and the sum of frames; `mug_frame_text`, for which a text is one word, the one that
        is read in the end. (The published names.)
    scale: tau, in all softmaxes.
    published: for `mug_frame_token`, whether padding counts in the sum of words, as in the
        published code, which takes anything with a product of exactly 0 for padding.

    Raises:
        ValueError: an unknown interaction, or published with any but `mug_frame_token`.
    """

    name: ClassVar[str] = "mug"
    needs: ClassVar[frozenset[str]] = frozenset({"pair_scores", "text_tower"})
    breaks: ClassVar[frozenset[str]] = frozenset({"pair_scores"})

    interaction: str = "mug_frame_token_simple"
    scale: float = 100.0
    published: bool = False

    def __post_init__(self) -> None:
        require_some("mug", "interaction", (self.interaction,), INTERACTIONS)
        if self.published and self.interaction != "mug_frame_token":
            raise ValueError(
                f"mug.published=True with mug.interaction={self.interaction!r}: only "
                "mug_frame_token is another as published"
            )

    @property
    def text_extras(self) -> tuple[str, ...]:
        return () if self.interaction == "mug_frame_text" else ("tokens", "words")

    def score(
        self, model: Scope, video: Embedded, text: Embedded, scores: jax.Array, train: bool
    ) -> jax.Array:
        """Point 9: scores [v, c] of the chosen interaction."""
        frames = normalize(video["frames"])
        if self.interaction == "mug_frame_text":
            tokens, words = normalize(text["features"])[:, None], None
        else:
            tokens, words = normalize(text["tokens"]), text["words"][:, :, None]
        products = jnp.einsum("vte,cle->vclt", frames, tokens)
        if words is not None:
            products = jnp.where(words, products, 0.0)
        of_words = self._weights(products, -1)  # over frames
        of_frames = self._weights(products, -2, words)  # over words
        if self.interaction == "mug_frame_token":
            return self._of_sums(frames, tokens, words, of_words, of_frames)
        read = (of_words * products).sum(-1)
        seen = (of_frames * products).sum(-2)
        by_frames = (self._weights(seen, -1) * seen).sum(-1)
        if words is None:
            return by_frames
        by_words = (self._weights(read, -1, words[..., 0]) * read).sum(-1)
        return (by_words + by_frames) / 2

    def _of_sums(
        self,
        frames: jax.Array,
        tokens: jax.Array,
        words: jax.Array | None,
        of_words: jax.Array,
        of_frames: jax.Array,
    ) -> jax.Array:
        """Products [v, c] of a weighted sum of words and a weighted sum of frames."""
        read = jnp.einsum("vclt,vte->vcle", of_words, frames)
        likeness = jnp.einsum("vcle,cle->vcl", read, tokens)
        kept = None if self.published or words is None else words[..., 0]
        chosen = jnp.einsum("vcl,cle->vce", self._weights(likeness, -1, kept), tokens)
        seen = jnp.einsum("vclt,cle->vcte", of_frames, tokens)
        likeness = jnp.einsum("vcte,vte->vct", seen, frames)
        shown = jnp.einsum("vct,vte->vce", self._weights(likeness, -1), frames)
        return jnp.einsum("vce,vce->vc", chosen, shown)

    def _weights(self, x: jax.Array, axis: int, kept: jax.Array | None = None) -> jax.Array:
        """softmax(tau x) along an axis, over what is kept."""
        logits = self.scale * x
        return jax.nn.softmax(logits if kept is None else jnp.where(kept, logits, LOWEST), axis)


METHOD = Mug
