"""A method that scores pairs: a video is as like a text as its best frame."""

import dataclasses

import jax.numpy as jnp

from vlt.models.points import Method


@dataclasses.dataclass(frozen=True)
class BestFrame(Method):
    """[v, t, e], [c, e] -> the largest cosine of a frame, [v, c]."""

    needs = frozenset({"pair_scores"})

    def score(self, model, frames, texts, scores):
        unit = frames / jnp.linalg.norm(frames, axis=-1, keepdims=True)
        return jnp.einsum("vte,ce->vct", unit, texts).max(-1)
