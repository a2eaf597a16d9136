"""Leaves of layers. Linen initialises every leaf abstractly at every call of its layer."""

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
    """Context for when only shapes are wanted: leaves are zeros, and no initialiser is called."""
    before = _SHAPES_ALONE.set(True)
    try:
        yield
    finally:
        _SHAPES_ALONE.reset(before)


class Leaves:
    """Base class to put before a Linen layer: a leaf that exists is only read.

    The layer's own way of finding the shape that a leaf should have takes as long to trace as what
    is computed with it.
    """

    def param(
        self: Any,
        name: str,
        init: Callable[..., Any],
        shape: Sequence[int],
        dtype: Any = jnp.float32,
    ) -> jax.Array:
        """The leaf of this name; a new one gets this shape and dtype.

        Raises:
            ScopeParamShapeError: the existing leaf has another shape.
        """
        if _SHAPES_ALONE.get() and not self.has_variable("params", name):
            self.put_variable("params", name, jnp.zeros(shape, dtype))
        if not self.has_variable("params", name):
            return super().param(name, init, shape, dtype)
        value: jax.Array = self.get_variable("params", name)
        if value.shape != tuple(shape):
            raise ScopeParamShapeError(name, self.scope.path_text, value.shape, tuple(shape))
        return value
