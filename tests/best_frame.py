"""A method that scores pairs: a video scores as its best frame does."""

import dataclasses

import jax.numpy as jnp

from vlt.models.points import Method
from vlt.models.vit import normalize


@dataclasses.dataclass(frozen=True)
class BestFrame(Method):
    """[v, t, e], [c, e] -> each pair's largest cosine over the frames, [v, c]."""

    needs = frozenset({"pair_scores"})

    def score(self, model, video, text, scores, train):
        frames, texts = normalize(video["frames"]), normalize(text["features"])
        return jnp.einsum("vte,ce->vct", frames, texts).max(-1)
