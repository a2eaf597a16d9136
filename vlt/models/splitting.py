"""How a kernel is split over the current mesh, since the compiler cannot look into it."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import PartitionSpec

Axes = tuple[str | None, ...]


def splits(sizes: Mapping[str, int], interpret: bool) -> bool:
    """Whether a kernel can be split: on one device, or over a mesh that divides its arrays' axes.

    Without a mesh, a program on several devices would have to be split by the compiler, which can
    split only an interpreted kernel.

    Args:
      sizes: sizes of axes by the names that sharding rules have for them.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return interpret or jax.device_count() == 1
    if (mesh := _to_split_over()) is None:
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
    """The function, run on every device with its part of arguments and result.

    Args:
      arguments, result: names of their leading axes.
      sizes: sizes of the axes by these names.
    """
    if _to_split_over() is None:
        return function
    axes: Any = nn.logical_to_mesh_axes(tuple(sizes))
    parts = dict(zip(sizes, axes, strict=True))

    def spec(axes: Axes) -> PartitionSpec:
        return PartitionSpec(*(name and parts[name] for name in axes))

    return jax.shard_map(
        function, in_specs=tuple(map(spec, arguments)), out_specs=spec(result), check_vma=False
    )


def parts_of(name: str) -> int:
    """Number of parts into which the current mesh splits an axis of this name."""
    axes: Any = nn.logical_to_mesh_axes((name,))
    return 1 if (mesh := _to_split_over()) is None else _count(mesh, axes[0])


def _to_split_over() -> jax.sharding.AbstractMesh | None:
    """The current mesh, if its devices each need their part of a kernel's arrays."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.size == 1 or mesh.manual_axes else mesh


def _count(mesh: jax.sharding.AbstractMesh, axes: Any) -> int:
    """Number of parts into which axes of the mesh split a dimension."""
    names = () if axes is None else (axes,) if isinstance(axes, str) else axes
    return math.prod(mesh.shape[axis] for axis in names)
