"""Tensors that are read only when they are written: no 7B model is ever in memory as a whole."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vlt.convert.errors import ConversionError
from vlt.convert.files.mapped import release_pages
from vlt.convert.tables.table import Placed, Rule, Transform, to_leaves


@dataclasses.dataclass(frozen=True, eq=False)
class Lazy:
    """An array that `read` returns. origin: the tensors that it is made from, for messages."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]
    origin: str

    @classmethod
    def of(cls, origin: str, array: np.ndarray) -> "Lazy":
        """Wraps an array, mostly a view of a file, whose pages `values` releases."""
        return cls(array.shape, array.dtype, lambda: array, origin)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def stand_in(self) -> np.ndarray:
        """Zeros of this shape, in the memory of a single one."""
        return np.broadcast_to(np.zeros((), self.dtype), self.shape)

    def through(self, transform: Transform, part: int, shape: tuple[int, ...]) -> "Lazy":
        """Leaf number `part` of those that a transform makes from this array."""

        def read() -> np.ndarray:
            try:
                return transform.split(self.read())[part]
            except ValueError as error:
                raise ConversionError(f"{self.origin}: {error}") from error

        return Lazy(shape, self.dtype, read, self.origin)

    def values(self) -> np.ndarray:
        """A contiguous copy of the array; the pages that it was read from are released."""
        array = self.read()
        copy = np.array(array, order="C")
        release_pages(array)
        return copy


Leaves = Mapping[str, Lazy]


def place(
    rules: tuple[Rule, ...],
    tensors: Leaves,
    canonical: Callable[[str], str],
    dropped: str,
    left_out: str,
) -> tuple[Placed, dict[str, Lazy]]:
    """Like `to_leaves`, for tensors that are not read yet; also returns the leaves by path."""
    stand_ins = {name: tensor.stand_in for name, tensor in tensors.items()}
    placed = to_leaves(rules, stand_ins, canonical, dropped, left_out)
    leaves = {}
    for row in placed.rows:
        for part, path in enumerate(row.targets):
            shape = placed.leaves[path].shape
            leaves[path] = tensors[row.source].through(row.rule.transform, part, shape)
    return placed, leaves


def concatenated(parts: list[Lazy], axis: int) -> Lazy:
    """Tensors concatenated along an axis. Raises ConversionError where they do not fit."""
    first = parts[0]
    if any(part.ndim <= axis for part in parts) or len({_beside(p, axis) for p in parts}) > 1:
        shapes = ", ".join(str(list(part.shape)) for part in parts)
        raise ConversionError(f"{first.origin}: parts of {shapes} do not fit along axis {axis}")
    sizes = sum(part.shape[axis] for part in parts)
    shape = (*first.shape[:axis], sizes, *first.shape[axis + 1 :])

    def read() -> np.ndarray:
        return np.concatenate([part.values() for part in parts], axis)

    return Lazy(shape, first.dtype, read, first.origin)


def _beside(part: Lazy, axis: int) -> Any:
    return part.dtype, part.shape[:axis], part.shape[axis + 1 :]


def total_bytes(leaves: Leaves) -> int:
    """Number of bytes of all leaves, written out."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves.values())
