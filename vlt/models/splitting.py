"""How a kernel is split over the mesh that is set: the compiler cannot look into one."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import PartitionSpec

Axes = tuple[str | None, ...]


def split_over_mesh(
    function: Callable[..., jax.Array],
    arguments: Sequence[Axes],
    result: Axes,
    sizes: Mapping[str, int],
    interpret: bool,
) -> Callable[..., jax.Array] | None:
    """The function, on every device with its part of arguments and result; None if it cannot be.

    Without a mesh a program of several devices would have to be split by the compiler.

    Args:
      arguments, result: names of their leading axes, as the rules of sharding know them.
      sizes: of the axes of these names, which a mesh must divide.
      interpret: whether what is split is an interpreted kernel, which any compiler can split.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return function if interpret or jax.device_count() == 1 else None
    if mesh.size == 1 or mesh.manual_axes:
        return function
    axes: Any = nn.logical_to_mesh_axes(tuple(sizes))
    parts = dict(zip(sizes, axes, strict=True))
    if any(size % _count(mesh, parts[name]) for name, size in sizes.items()):
        return None

    def spec(axes: Axes) -> PartitionSpec:
        return PartitionSpec(*(name and parts[name] for name in axes))

    return jax.shard_map(
        function, in_specs=tuple(map(spec, arguments)), out_specs=spec(result), check_vma=False
    )


def _count(mesh: jax.sharding.AbstractMesh, axes: Any) -> int:
    """Into how many parts axes of the mesh split a dimension."""
    names = () if axes is None else (axes,) if isinstance(axes, str) else axes
    return math.prod(mesh.shape[axis] for axis in names)
