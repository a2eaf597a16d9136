"""Saving and loading trees of arrays, such as the weights of model folders.

Orbax (its version 1 API) is hidden behind this file and `vlt.training.checkpoints`. The files
hold arrays and JSON; nothing that is read can run code. A folder gets its final name by one rename
once everything in it is written, so a folder of that name is whole, whenever a writer was killed.
"""

import hashlib
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from orbax.checkpoint import v1 as ocp

from vlt.pytrees.paths import by_path
from vlt.runtime.processes import is_primary

Path = str | pathlib.Path

UNFINISHED = ".orbax-checkpoint-tmp"
_PIECE = 2**27  # bytes written at a time
_HALVES = ("float16", "bfloat16")


class CheckpointError(Exception):
    """A checkpoint that is absent, half written or unreadable."""


class CheckpointMismatchError(CheckpointError):
    """A checkpoint of another model, other frozen weights or another tree."""


class CheckpointSaveError(CheckpointError):
    """A checkpoint that could not be written; those before it are untouched."""


def save_tree(folder: Path, tree: Mapping[str, Any], overwrite: bool = False) -> None:
    """Writes a nested dict of arrays into `folder` (a model folder's weights/), synchronously.

    Raises:
      CheckpointSaveError: the folder exists and `overwrite` is off, or writing failed.
    """
    folder = pathlib.Path(folder).absolute()
    if folder.exists() and not overwrite:
        raise CheckpointSaveError(f"{folder} exists already (overwrite=True would replace it)")
    leaves = jax.tree.map(as_array, dict(tree))
    check_free_space(folder.parent, leaves)
    try:
        ocp.save(folder, leaves, overwrite=overwrite)
        _forget_makers(folder)
    except Exception as error:
        raise CheckpointSaveError(f"{folder} could not be written: {first_line(error)}") from error


def save_leaf_by_leaf(folder: Path, leaves: Iterable[tuple[str, Any]], size: int) -> None:
    """As `save_tree`, for leaves (path, host array) that come one by one and are then released.

    size: bytes of all leaves; about `_PIECE` plus the largest leaf are in memory at a time.

    Raises:
      CheckpointSaveError: the folder exists, or there is no room, or writing failed.
    """
    folder = pathlib.Path(folder).absolute()
    if folder.exists():
        raise CheckpointSaveError(f"{folder} exists already")
    check_room(folder.parent, size)
    piece: dict[tuple[str, ...], np.ndarray] = {}
    for path, leaf in leaves:
        piece[tuple(path.split("/"))] = leaf
        if sum(each.nbytes for each in piece.values()) >= _PIECE:
            _save_piece(folder, piece)
            piece = {}
    _save_piece(folder, piece)
    try:
        ocp.partial.finalize(folder)
        _forget_makers(folder)
    except Exception as error:
        raise CheckpointSaveError(f"{folder} could not be written: {first_line(error)}") from error


def _save_piece(folder: pathlib.Path, piece: Mapping[tuple[str, ...], np.ndarray]) -> None:
    if not piece:
        return
    context = ocp.Context()
    context.memory.deepcopy_host_arrays = False  # the caller waits
    context.array.saving.use_compression = False  # it would take three times as long
    try:
        with context:
            ocp.partial.save(folder, traverse_util.unflatten_dict(dict(piece)))
    except Exception as error:
        raise CheckpointSaveError(f"{folder} could not be written: {first_line(error)}") from error


def _forget_makers(folder: pathlib.Path) -> None:
    """Overwrites Orbax's note of where it wrote: a shared folder needs no paths of its makers."""
    for note in folder.glob("commit_success.txt") if is_primary() else ():
        note.write_text("Checkpoint commit was successful\n")


def load_tree(
    folder: Path,
    abstract: Mapping[str, Any] | None = None,
    halves: bool = False,
    change: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> dict:
    """Reads what `save_tree` wrote, on any number of devices.

    Args:
      folder: the folder given to `save_tree`.
      abstract: nested dict of shapes that the tree must have; a leaf with a sharding is placed on
        its devices. By default all leaves are read as host arrays.
      halves: whether leaves may be stored in 16 bits where 32 are wanted; they stay in 16.
      change: maps some leaves, by path, to what is kept of them; called before the others are read,
        so that both forms of the whole tree are never in memory. Leaves are on the host.

    Returns:
      nested dict of jax.Array where `abstract` has shardings, np.ndarray elsewhere.

    Raises:
      CheckpointError: the folder is absent, half written or damaged.
      CheckpointMismatchError: lists every leaf that is missing, left over or of another shape or
        type.
    """
    folder = pathlib.Path(folder).absolute()
    saved = load_shapes(folder)
    wanted = by_path(saved if abstract is None else abstract)
    check_same(folder, by_path(saved), wanted, halves)
    have = by_path(saved)
    if change is not None:
        pieces = (load_leaves(folder, piece) for piece in _pieces(have))
        changed = {path: leaf for piece in pieces for path, leaf in change(piece).items()}
        return traverse_util.unflatten_dict(changed, sep="/")
    leaves = {
        tuple(path.split("/")): placement(leaf, have[path].dtype) for path, leaf in wanted.items()
    }
    return load_arrays(folder, traverse_util.unflatten_dict(leaves))


def _pieces(leaves: Mapping[str, Any]) -> Iterator[list[str]]:
    """Paths of leaves in groups of at most `_PIECE` bytes, or of a single larger leaf."""
    piece: list[str] = []
    size = 0
    for path, leaf in leaves.items():
        bytes_of = leaf.size * leaf.dtype.itemsize
        if piece and size + bytes_of > _PIECE:
            yield piece
            piece, size = [], 0
        piece.append(path)
        size += bytes_of
    if piece:
        yield piece


def load_leaves(folder: Path, paths: Iterable[str]) -> dict[str, np.ndarray]:
    """Some leaves of what `save_tree` wrote, by path, on the host.

    Raises:
      CheckpointError: the folder is absent, half written or damaged, or lacks one of them.
    """
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    targets = {tuple(path.split("/")): np.ndarray for path in paths}
    with context:
        tree = load_arrays(pathlib.Path(folder).absolute(), traverse_util.unflatten_dict(targets))
    return dict(traverse_util.flatten_dict(tree, sep="/"))


def load_shapes(folder: Path) -> dict:
    """Reads the shapes alone: a nested dict of jax.ShapeDtypeStruct.

    Raises:
      CheckpointError: the folder is absent, half written or damaged.
    """
    # Orbax finds nothing under a relative path, and does not say so.
    tree = read_metadata(pathlib.Path(folder).absolute()).metadata
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def fingerprint(tree: Any) -> str:
    """SHA-256 of a tree's paths, shapes, types and values (host arrays or addressable ones)."""
    digest = hashlib.sha256()
    for path, leaf in sorted(by_path(tree).items()):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{path} {array.dtype} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def as_array(leaf: Any) -> Any:
    """The leaf as Orbax stores it: a device array as it is, anything else on the host."""
    return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)


def placement(leaf: Any, dtype: Any = None) -> Any:
    """What tells Orbax where to put a leaf: a shape with a sharding, or the host.

    dtype: the dtype that the leaf is stored in, where it keeps that.
    """
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        return np.ndarray
    return jax.ShapeDtypeStruct(leaf.shape, dtype or leaf.dtype, sharding=sharding)


def check_same(
    folder: Path, saved: Mapping[str, Any], wanted: Mapping[str, Any], halves: bool = False
) -> None:
    """Raises CheckpointMismatchError, which lists every leaf that differs, by path.

    halves: whether leaves may be stored in 16 bits where 32 are wanted.
    """

    def text(leaf: Any) -> str:
        return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"

    arrays = {path: leaf if _is_shaped(leaf) else np.asarray(leaf) for path, leaf in wanted.items()}
    differences = [f"{path}: not in the checkpoint" for path in arrays if path not in saved]
    differences += [f"{path}: only in the checkpoint" for path in saved if path not in arrays]
    differences += [
        f"{path}: {text(saved[path])} in the checkpoint, {text(leaf)} wanted"
        for path, leaf in arrays.items()
        if path in saved
        and text(_widened(saved[path], leaf) if halves else saved[path]) != text(leaf)
    ]
    if differences:
        raise CheckpointMismatchError(
            f"{folder} holds another tree; {len(differences)} leaves differ:\n  "
            + "\n  ".join(differences)
        )


def _widened(saved: Any, wanted: Any) -> Any:
    half = np.dtype(saved.dtype).name in _HALVES and np.dtype(wanted.dtype) == np.float32
    return jax.ShapeDtypeStruct(saved.shape, wanted.dtype) if half else saved


def _is_shaped(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def read_metadata(folder: pathlib.Path) -> Any:
    """Returns Orbax's description of a checkpoint; raises CheckpointError if it is incomplete."""
    _check_exists(folder)
    try:
        found = ocp.metadata(folder)
    except Exception as error:
        raise CheckpointError(
            f"{folder} is not a complete checkpoint: {first_line(error)}"
        ) from error
    if found.metadata is None:  # Orbax logs why, and goes on
        raise CheckpointError(f"{folder} is not a complete checkpoint: its tree is not described")
    return found


def load_arrays(folder: pathlib.Path, targets: Any) -> Any:
    """Reads a checkpoint's arrays, placed as `targets` say; raises CheckpointError on failure."""
    try:
        return ocp.load(folder, targets)
    except Exception as error:
        raise CheckpointError(f"{folder} could not be read: {first_line(error)}") from error


def _check_exists(folder: pathlib.Path) -> None:
    if folder.is_dir():
        return
    if list(folder.parent.glob(f"{folder.name}{UNFINISHED}*")):
        raise CheckpointError(
            f"{folder} is half written: whoever wrote it was stopped ({folder.name}{UNFINISHED} "
            "lies beside it); write it again"
        )
    raise CheckpointError(f"{folder} does not exist or is not a folder")


def check_free_space(folder: pathlib.Path, leaves: Any) -> None:
    """Raises CheckpointSaveError where the device of `folder` has no room for the arrays."""
    check_room(folder, sum(leaf.nbytes for leaf in jax.tree.leaves(leaves)))


def check_room(folder: pathlib.Path, needed: int) -> None:
    """As `check_free_space`, for `needed` bytes."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise CheckpointSaveError(
            f"no space left on the device: {megabytes(needed)} needed, {megabytes(free)} free"
        )


def megabytes(size: int) -> str:
    """A number of bytes as text, in MB."""
    return f"{size / 1e6:.1f} MB"


def first_line(error: Exception) -> str:
    """Type and first line of an error; Orbax appends pages, and TensorStore the spec it used."""
    line = (str(error).splitlines() or ["no reason given"])[0]
    return f"{type(error).__name__}: {line.partition(' [tensorstore_spec=')[0]}"
