"""Merging methods that reach their token counts by slicing, to tell what matching and merging cost.

The method's points are called as usual, but only the shapes of their results are used, so that
matching, sorting, gathering and averaging are dead code, absent from the compiled program. Token
sizes stay, and with them proportional attention. What the removed operations cost is the difference
in time to the method itself.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from vlt.models.points import Method
from vlt.models.tokens import Tokens
from vlt.models.video_model import VideoModel

MOVING_POINTS = ("before_attention", "after_attention", "after_block")  # where tokens merge or go


def sliced(model: VideoModel) -> VideoModel:
    """The module, slicing tokens where it merges; same parameters, same shapes in every block."""
    return model.clone(methods=tuple(_sliced(m) if m.merges else m for m in model.methods))


def _sliced(method: Method) -> Method:
    points = {name: _slicing_point(type(method), name) for name in MOVING_POINTS}
    options = {f.name: getattr(method, f.name) for f in dataclasses.fields(method)}
    return type("Sliced", (type(method),), points)(**options)


def _slicing_point(method: type[Method], name: str) -> Any:
    def point(self: Method, block: Any, tokens: Tokens, *attended: Any) -> Tokens:
        return _cut(tokens, getattr(method, name)(self, block, tokens, *attended))

    return point


def _cut(tokens: Tokens, like: Tokens) -> Tokens:
    """The first tokens of each group, groups joined as in `like`, as many tokens as it has."""
    if tokens.x.shape == like.x.shape:
        return like
    groups, count = like.x.shape[1:3]

    def move(x: jax.Array) -> jax.Array:
        return x.reshape(x.shape[0], groups, -1, *x.shape[3:])[:, :, :count]

    # Where sizes are introduced, XLA must not see that all are 1.
    size = jax.lax.optimization_barrier(jnp.ones(tokens.x.shape[:3], jnp.float32))
    if tokens.size is None and like.size is not None:
        tokens = tokens.replace(size=size)
    return tokens.rearrange(move, cls=like.cls, protected=like.protected)
