"""Leaves of layers. Linen initialises every leaf, in the abstract, at every call of its layer."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax.errors import ScopeParamShapeError

_SHAPES_ALONE = contextvars.ContextVar("shapes_alone", default=False)


@contextlib.contextmanager
def shapes_alone() -> Iterator[None]:
    """Within it no initialiser is called: leaves are zeros, of which the shapes are wanted."""
    before = _SHAPES_ALONE.set(True)
    try:
        yield
    finally:
        _SHAPES_ALONE.reset(before)


class Leaves:
    """Before a Linen layer: a leaf that is there is read and no more.

    The layer's own way of learning the shape that a leaf should have takes as long to trace as
    what is computed with it.
    """

    def param(
        self: Any,
        name: str,
        init: Callable[..., Any],
        shape: Sequence[int],
        dtype: Any = jnp.float32,
    ) -> jax.Array:
        """The leaf of this name, of the shape and dtype where it is a new one.

        Raises:
            ScopeParamShapeError: the one that is there has another shape.
        """
        if _SHAPES_ALONE.get() and not self.has_variable("params", name):
            self.put_variable("params", name, jnp.zeros(shape, dtype))
        if not self.has_variable("params", name):
            return super().param(name, init, shape, dtype)
        value: jax.Array = self.get_variable("params", name)
        if value.shape != tuple(shape):
            raise ScopeParamShapeError(name, self.scope.path_text, value.shape, tuple(shape))
        return value
