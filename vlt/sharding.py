"""Where arrays live: one mesh of devices with the axes data, fsdp and tensor.

Batches are split over data and fsdp together; large parameters over fsdp; `tensor` has its place in
the mesh and splits nothing yet. The same code runs on one CPU device and on a pod.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")

# Below this many elements a gather costs more than the memory that splitting saves.
MIN_SPLIT_ELEMENTS = 2**16


class MeshError(ValueError):
    """A mesh that the devices cannot form, or a batch that the mesh cannot split."""


def make_mesh(config: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arranges devices in a mesh.

    Args:
      config: `config.mesh`: sizes of data, fsdp and tensor (1 where absent), at most one of them -1
        (all devices that are left).
      devices: all devices of all processes by default.

    Raises:
      MeshError: unknown axis, size below 1, two -1, or sizes that do not use every device once.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = _axis_sizes(dict(config.items()), len(devices))
    return jax.make_mesh(
        tuple(sizes.values()), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices
    )


def _axis_sizes(config: dict[str, int], devices: int) -> dict[str, int]:
    if unknown := sorted(config.keys() - set(AXES)):
        raise MeshError(f"mesh has no axis {', '.join(unknown)}; its axes are {', '.join(AXES)}")
    sizes = {axis: config.get(axis, 1) for axis in AXES}
    for axis, size in sizes.items():
        if size < 1 and size != -1:
            raise MeshError(f"mesh.{axis}={size}: a size is at least 1, or -1 for what is left")
        if size > devices:
            raise MeshError(
                f"mesh.{axis}={size} is larger than the number of devices, {devices}; "
                f"sizes that work: {_divisors(devices)}"
            )
    free = [axis for axis, size in sizes.items() if size == -1]
    if len(free) > 1:
        raise MeshError(f"mesh: only one axis can be -1, not {' and '.join(free)}")
    taken = math.prod(size for size in sizes.values() if size != -1)
    text = ", ".join(f"{axis}={size}" for axis, size in sizes.items())
    if free and devices % taken == 0:
        sizes[free[0]] = devices // taken
    elif free:
        raise MeshError(
            f"mesh ({text}): {taken} does not divide the number of devices, {devices}; "
            f"products that do: {_divisors(devices)}"
        )
    elif taken != devices:
        raise MeshError(
            f"mesh ({text}) has {taken} places for {devices} devices; the product must be "
            f"{devices} (data=-1 takes what is left)"
        )
    return sizes


def _divisors(number: int) -> str:
    return ", ".join(str(n) for n in range(1, number + 1) if number % n == 0)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Splits the first dimension over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def param_sharding(mesh: Mesh, tree: Any, min_elements: int = MIN_SPLIT_ELEMENTS) -> Any:
    """Chooses a sharding for every leaf of parameters or of optimiser state.

    A leaf with at least `min_elements` elements is split over fsdp along its largest dimension that
    fsdp divides (the first of equals); every other leaf is replicated.

    Args:
      tree: pytree of arrays or shapes.

    Returns:
      a pytree of NamedSharding of the same structure.
    """
    parts = mesh.shape["fsdp"]

    def choose(leaf: Any) -> NamedSharding:
        divisible = [axis for axis, size in enumerate(leaf.shape) if size and size % parts == 0]
        if parts == 1 or math.prod(leaf.shape) < min_elements or not divisible:
            return replicated(mesh)
        split = max(divisible, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * split, "fsdp"))

    return jax.tree.map(choose, tree)


def check_batch_size(mesh: Mesh, batch_size: int) -> None:
    """Refuses a global batch size that data * fsdp does not divide.

    Raises:
      MeshError: says the nearest batch sizes that would be right.
    """
    parts = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if batch_size < 1 or batch_size % parts:
        below = batch_size // parts * parts
        right = [str(size) for size in (below, below + parts) if size > 0]
        raise MeshError(
            f"a batch of {batch_size} cannot be split over data={mesh.shape['data']} x "
            f"fsdp={mesh.shape['fsdp']}; right is a multiple of {parts}, such as "
            f"{' or '.join(right)}"
        )


def shard_batch(batch: Any, mesh: Mesh) -> Any:
    """Places this process's part of a batch on its devices.

    Args:
      batch: pytree of host arrays [b / number of processes, ...].

    Returns:
      the same pytree of global jax.Arrays [b, ...], split over data and fsdp.

    Raises:
      MeshError: data * fsdp does not divide b.
    """
    sharding = batch_sharding(mesh)
    for rows in {leaf.shape[0] for leaf in jax.tree.leaves(batch)}:
        check_batch_size(mesh, rows * jax.process_count())
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, leaf), batch)


def over_devices(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """`function` of rows, [n, ...] -> [n, ...], shared among the devices of the mesh that is set.

    For rows that every device has, such as the texts of all classes, in a program of the mesh.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return function(x)
    parts = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    filled = jnp.concatenate([x, jnp.repeat(x[:1], -len(x) % parts, axis=0)])
    split = jax.lax.with_sharding_constraint(filled, PartitionSpec(BATCH_AXES))
    return function(split)[: len(x)]
