"""Where arrays live: one mesh of devices with the axes data, fsdp and tensor.

Batches are split over data and fsdp together, large parameters over fsdp, and whatever the config's
rules (`config.sharding`) say over tensor: by default the heads of attention and the hidden units of
MLPs. The same code runs on one CPU device and on a pod.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vlt.pytrees.paths import path_name
from vlt.pytrees.patterns import first_match, match_all

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")

Axes = str | Sequence[str] | None  # axes that split one dimension

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
            raise MeshError(f"mesh.{axis} must be >= 1, or -1 for all devices left, got {size}")
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


def param_sharding(
    mesh: Mesh,
    tree: Any,
    rules: Iterable[tuple[str, Sequence[Axes]]] = (),
    min_elements: int = MIN_SPLIT_ELEMENTS,
) -> Any:
    """Chooses a sharding for every leaf of parameters or of what a step carries.

    The first rule whose regex matches the whole '/'-joined path of a leaf says which axes of the
    mesh split each of its dimensions. If it does not name fsdp, a leaf of at least `min_elements`
    elements is split over fsdp, too, along the largest dimension left that fsdp divides (the first
    of equals).

    Args:
      tree: pytree of arrays or shapes.
      rules: `config.sharding.params`: (regex, for every dimension None, an axis or several).

    Returns:
      a pytree of NamedSharding of the same structure.

    Raises:
      MeshError: a rule with more or fewer entries than a leaf has dimensions, an axis that does not
        exist, or one that does not divide its dimension.
    """
    rules = tuple(rules)

    def choose(path: tuple, leaf: Any) -> NamedSharding:
        name = path_name(path)
        split = _by_rule(mesh, name, leaf.shape, rules)
        if math.prod(leaf.shape) >= min_elements:
            split = _over_fsdp(mesh, leaf.shape, split)
        while split and split[-1] is None:
            split = split[:-1]
        return NamedSharding(mesh, PartitionSpec(*split))

    return jax.tree_util.tree_map_with_path(choose, tree)


def _by_rule(
    mesh: Mesh, name: str, shape: Sequence[int], rules: Sequence[tuple[str, Sequence[Axes]]]
) -> list[Axes]:
    """Axes of each dimension by the first rule that matches; those of size 1 are left out."""
    index = first_match([pattern for pattern, _ in rules], name)
    pattern, wanted = ("", (None,) * len(shape)) if index is None else rules[index]
    if len(wanted) > len(shape) and name.startswith("opt_state/"):
        wanted = (None,) * len(shape)  # Adafactor keeps rows and columns of a leaf apart
    if len(wanted) != len(shape):
        raise MeshError(
            f"sharding.params: {pattern!r} places {len(wanted)} dimensions, {name} has {[*shape]}"
        )
    for size, axes in zip(shape, wanted, strict=True):
        if unknown := sorted(set(_names(axes)) - set(AXES)):
            raise MeshError(
                f"sharding.params: {pattern!r} names {', '.join(unknown)}; the mesh's axes are "
                f"{', '.join(AXES)}"
            )
        if size % _parts(mesh, axes):
            raise MeshError(
                f"{name} {[*shape]}: {axes}={_parts(mesh, axes)} does not divide {size} "
                f"(rule {pattern!r} of sharding.params); sizes that do: {_divisors(size)}"
            )
    return [axes if _parts(mesh, axes) > 1 else None for axes in wanted]


def _over_fsdp(mesh: Mesh, shape: Sequence[int], split: list[Axes]) -> list[Axes]:
    parts = mesh.shape["fsdp"]
    if parts == 1 or any("fsdp" in _names(axes) for axes in split):
        return split
    free = [i for i, size in enumerate(shape) if size and size % parts == 0 and split[i] is None]
    if not free:
        return split
    chosen = max(free, key=lambda i: shape[i])
    return [*split[:chosen], "fsdp", *split[chosen + 1 :]]


def _names(axes: Axes) -> Sequence[str]:
    return () if axes is None else (axes,) if isinstance(axes, str) else axes


def _parts(mesh: Mesh, axes: Axes) -> int:
    return math.prod(mesh.shape[axis] for axis in _names(axes))


def check_rules(rules: Iterable[tuple[str, Any]], params: Any) -> None:
    """Raises MeshError for a rule of `sharding.params` that no leaf of the parameters matches."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    names = [path_name(path) for path, _ in leaves]
    patterns = [pattern for pattern, _ in rules]
    for index in match_all(patterns, names).dead:
        raise MeshError(
            f"sharding.params: {patterns[index]!r} matches no leaf (it must match a whole "
            f"path); paths are {', '.join(names[:3])}, ..."
        )


def check_batch_size(mesh: Mesh, batch_size: int, microbatches: int = 1) -> None:
    """Refuses a global batch size that data * fsdp (times the microbatches) does not divide.

    Raises:
      MeshError: says the nearest batch sizes that would be right.
    """
    parts = math.prod(mesh.shape[axis] for axis in BATCH_AXES) * microbatches
    if batch_size < 1 or batch_size % parts:
        below = batch_size // parts * parts
        right = [str(size) for size in (below, below + parts) if size > 0]
        steps = f" x accumulate={microbatches}" if microbatches > 1 else ""
        raise MeshError(
            f"a batch of {batch_size} cannot be split over data={mesh.shape['data']} x "
            f"fsdp={mesh.shape['fsdp']}{steps}; use a multiple of {parts}, such as "
            f"{' or '.join(right)}"
        )


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """The rows of a batch that this process's devices hold, ascending, int [r].

    Processes whose devices do not split the batch, but the same rows over tensor, hold the same.

    Raises:
      MeshError: data * fsdp does not divide the batch size.
    """
    check_batch_size(mesh, batch_size)
    places = batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
    held = [np.arange(batch_size)[index] for index in places.values() if index is not None]
    return np.unique(np.concatenate(held))


def shard_batch(batch: Any, mesh: Mesh) -> Any:
    """Places this process's part of a batch on its devices.

    Args:
      batch: pytree of host arrays [r, ...], the `local_rows` of this process; all b if it is alone.

    Returns:
      the same pytree of global jax.Arrays [b, ...], split over data and fsdp.

    Raises:
      MeshError: data * fsdp does not divide b, or there are not r rows for this process.
    """

    def place(leaf: np.ndarray) -> jax.Array:
        size = _batch_size(mesh, len(leaf))
        rows = local_rows(mesh, size)

        def part(index: Any) -> np.ndarray:
            start, stop, _ = index[0].indices(size)
            first = np.searchsorted(rows, start)
            return leaf[first : first + stop - start]

        return jax.make_array_from_callback((size, *leaf.shape[1:]), batch_sharding(mesh), part)

    return jax.tree.map(place, batch)


def _batch_size(mesh: Mesh, local: int) -> int:
    """The size of the whole batch, of which this process has `local` rows."""
    parts = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    ours = len(local_rows(mesh, parts))  # of `parts` rows
    if local % ours:
        check_batch_size(mesh, local)
    return local // ours * parts


def place_whole(tree: Any, shardings: Any) -> Any:
    """Places host arrays, the same in every process, as global jax.Arrays."""

    def place(leaf: Any, sharding: NamedSharding) -> jax.Array:
        array = np.asarray(leaf)

        def part(index: Any) -> np.ndarray:
            return array[index]

        return jax.make_array_from_callback(array.shape, sharding, part)

    return jax.tree.map(place, tree, shardings)


def to_host(tree: Any) -> Any:
    """Whole host arrays of global jax.Arrays, the same in every process."""
    return multihost_utils.process_allgather(tree, tiled=True)


def batch_parts() -> int:
    """The number of parts into which the current mesh splits a batch; 1 without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def map_sharded_rows(function: Callable[[Any], Any], x: Any) -> Any:
    """Applies `function` to rows, both pytrees of [n, ...], shared among the devices of the current
    mesh.

    For rows that every device has, such as the texts of all classes, in a program of the mesh.
    """
    parts = batch_parts()
    if parts == 1:
        return function(x)
    count = len(jax.tree.leaves(x)[0])

    def split(x: jax.Array) -> jax.Array:
        filled = jnp.concatenate([x, jnp.repeat(x[:1], -count % parts, axis=0)])
        return jax.lax.with_sharding_constraint(filled, PartitionSpec(BATCH_AXES))

    return jax.tree.map(lambda y: y[:count], function(jax.tree.map(split, x)))
