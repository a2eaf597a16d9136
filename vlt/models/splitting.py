"""How a kernel is split over the mesh that is set: the compiler cannot look into one."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import PartitionSpec

Axes = tuple[str | None, ...]


def splits(sizes: Mapping[str, int], interpret: bool) -> bool:
    """Whether a kernel can be split: alone it can, and over a mesh that divides axes of its arrays.

    Without a mesh a program of several devices would have to be split by the compiler, which can do
    so with an interpreted one.

    Args:
      sizes: of axes by their names, as the rules of sharding know them.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return interpret or jax.device_count() == 1
    if mesh.size == 1 or mesh.manual_axes:
        return True
    parts: Any = nn.logical_to_mesh_axes(tuple(sizes))
    return not any(
        size % _count(mesh, axes) for size, axes in zip(sizes.values(), parts, strict=True)
    )


def split_over_mesh(
    function: Callable[..., jax.Array],
    arguments: Sequence[Axes],
    result: Axes,
    sizes: Mapping[str, int],
) -> Callable[..., jax.Array]:
    """The function, on every device with its part of arguments and result.

    Args:
      arguments, result: names of their leading axes.
      sizes: of the axes of these names.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or mesh.manual_axes:
        return function
    axes: Any = nn.logical_to_mesh_axes(tuple(sizes))
    parts = dict(zip(sizes, axes, strict=True))

    def spec(axes: Axes) -> PartitionSpec:
        return PartitionSpec(*(name and parts[name] for name in axes))

    return jax.shard_map(
        function, in_specs=tuple(map(spec, arguments)), out_specs=spec(result), check_vma=False
    )


def _count(mesh: jax.sharding.AbstractMesh, axes: Any) -> int:
    """Into how many parts axes of the mesh split a dimension."""
    names = () if axes is None else (axes,) if isinstance(axes, str) else axes
    return math.prod(mesh.shape[axis] for axis in names)
