"""Saving and loading: parameter trees of model folders, and the states of a training run.

Orbax (its version 1 API) stays behind this file. What is on disk is arrays and JSON; nothing that
is read can run code. A folder appears under its final name by one rename once everything in it is
written, so what has its name is whole, whenever the writer was killed.
"""

import base64
import hashlib
import math
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from flax import traverse_util
from orbax.checkpoint import v1 as ocp

Path = str | pathlib.Path

# Bump when a reader of older files would misunderstand newer ones.
_FORMAT = 1
_UNFINISHED = ".orbax-checkpoint-tmp"
_REMOVED = ".removed"


class CheckpointError(Exception):
    """A checkpoint that is absent, half written or unreadable."""


class CheckpointMismatchError(CheckpointError):
    """A checkpoint of another model, other frozen weights or another tree."""


class CheckpointSaveError(CheckpointError):
    """A checkpoint that could not be written; those before it are untouched."""


class Restored(NamedTuple):
    """What `TrainingCheckpoints.restore` gives back.

    Attributes:
      state: the pytree that was saved, on the devices asked for.
      data: the state of the data iterator, as given to `save`.
      metrics: the metrics given to `save`.
    """

    state: Any
    data: Any
    metrics: dict[str, float]


def save_tree(folder: Path, tree: Mapping[str, Any], overwrite: bool = False) -> None:
    """Writes a nested dict of arrays into `folder` (a model folder's weights/) and waits.

    Raises:
      CheckpointSaveError: the folder exists and `overwrite` is off, or writing failed.
    """
    folder = pathlib.Path(folder).absolute()
    if folder.exists() and not overwrite:
        raise CheckpointSaveError(f"{folder} exists already (overwrite=True would replace it)")
    leaves = jax.tree.map(_storable, dict(tree))
    _check_free_space(folder.parent, leaves)
    try:
        ocp.save(folder, leaves, overwrite=overwrite)
        # Orbax notes where it wrote; a model folder travels, and its makers' paths need not.
        for note in folder.glob("commit_success.txt"):
            note.write_text("Checkpoint commit was successful\n")
    except Exception as error:
        raise CheckpointSaveError(f"{folder} could not be written: {_first_line(error)}") from error


def load_tree(folder: Path, abstract: Mapping[str, Any] | None = None) -> dict:
    """Reads what `save_tree` wrote, on any number of devices.

    Args:
      folder: the folder given to `save_tree`.
      abstract: nested dict of shapes that the tree must have; a leaf with a sharding is placed on
        its devices. All leaves are wanted as host arrays when absent.

    Returns:
      nested dict of jax.Array where `abstract` has shardings, np.ndarray elsewhere.

    Raises:
      CheckpointError: the folder is absent, half written or damaged.
      CheckpointMismatchError: lists every leaf that is missing, left over or of another shape or
        type.
    """
    folder = pathlib.Path(folder).absolute()
    saved = load_shapes(folder)
    wanted = _by_path(saved if abstract is None else abstract)
    _check_same(folder, _by_path(saved), wanted)
    leaves = {tuple(path.split("/")): _target(leaf) for path, leaf in wanted.items()}
    return _load(folder, traverse_util.unflatten_dict(leaves))


def load_shapes(folder: Path) -> dict:
    """Reads the shapes alone: a nested dict of jax.ShapeDtypeStruct.

    Raises:
      CheckpointError: the folder is absent, half written or damaged.
    """
    # Orbax finds nothing under a relative path, and does not say so.
    tree = _metadata(pathlib.Path(folder).absolute()).metadata
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def fingerprint(tree: Any) -> str:
    """SHA-256 of a tree's paths, shapes, types and values (host arrays or addressable ones)."""
    digest = hashlib.sha256()
    for path, leaf in sorted(_by_path(tree).items()):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{path} {array.dtype} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


class TrainingCheckpoints:
    """The checkpoints of one training run, in workdir/checkpoints/STEP.

    Frozen weights are not saved: each checkpoint names their fingerprint, and `restore` refuses
    others. Opening and reading change nothing on disk, so a run that is still writing can be read;
    only `save`, `wait` and `close` remove files.

    Args:
      workdir: a local folder.
      keep_last: number of latest checkpoints to keep.
      best_metric: also keep the checkpoint whose metric of this name is largest, or smallest when
        the name begins with '-' ('-loss'). Checkpoints saved without the metric don't take part.
      frozen: `fingerprint` of the frozen parameters.
    """

    def __init__(
        self, workdir: Path, keep_last: int, best_metric: str | None = None, frozen: str = ""
    ):
        if keep_last < 1:
            raise ValueError(f"keep_last={keep_last}: at least one checkpoint must be kept")
        self.folder = pathlib.Path(workdir).absolute() / "checkpoints"
        self._keep_last = keep_last
        self._best_metric = best_metric
        self._frozen = frozen
        self._saving: tuple[int, Any] | None = None
        self._tidied = False
        self._infos: dict[int, dict] = {}

    def steps(self) -> list[int]:
        """The steps of all complete checkpoints, ascending."""
        return sorted(self._complete())

    def latest_complete(self) -> int | None:
        """The step to resume from; None where there is none. Half-written ones don't count."""
        return max(self._complete(), default=None)

    def best(self) -> int | None:
        """The step of the best checkpoint by `best_metric` (the later of equals), or None."""
        scores = {step: self._score(info["metrics"]) for step, info in self._complete().items()}
        rated = {step: score for step, score in scores.items() if score is not None}
        return max(rated, key=lambda step: (rated[step], step), default=None)

    def save(self, step: int, state: Any, data: Any, metrics: Mapping[str, float]) -> None:
        """Copies the state and returns; writing goes on in the background.

        A step that is saved already is left as it is. One save runs at a time: the one before is
        waited for.

        Args:
          step: optimiser steps made.
          state: pytree of arrays, e.g. trained parameters, optimiser state, step, seed.
          data: state of the data iterator after the batches that the state has consumed: bytes or
            JSON-able; the same on every process (counts of batches, not of files).
          metrics: numbers at this step; may be empty.

        Raises:
          CheckpointSaveError: this or the previous save failed, e.g. no space is left on the
            device. Older checkpoints are untouched and `save` can be called again.
        """
        self.wait()
        if not self._tidied:
            self._tidy()
        if step in self._complete():
            return
        leaves = {path: _storable(leaf) for path, leaf in _by_path(state).items()}
        info = {
            "format": _FORMAT,
            "metrics": {name: float(value) for name, value in metrics.items()},
            "data": _encode(data),
            "frozen": self._frozen,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            _check_free_space(self.folder, leaves)
            response = ocp.save_async(self.folder / str(step), leaves, custom_metadata=info)
        except Exception as error:
            raise self._save_error(step, error) from error
        self._saving = step, response

    def wait(self) -> None:
        """Waits until everything is on disk, then removes the checkpoints not to be kept.

        Raises:
          CheckpointSaveError: the save failed.
        """
        if self._saving is None:
            return
        (step, response), self._saving = self._saving, None
        try:
            response.result()
        except Exception as error:
            raise self._save_error(step, error) from error
        self._prune()

    close = wait

    def restore(self, step: int, abstract: Any) -> Restored:
        """Reads one checkpoint.

        Args:
          step: one of `steps()`.
          abstract: pytree of shapes like the state that was saved. Leaves that have a sharding come
            back as jax.Array on it, whatever devices saved them; others as np.ndarray.

        Raises:
          CheckpointError: there is no complete checkpoint of this step, or its files are damaged.
          CheckpointMismatchError: the tree differs (lists every difference), or the frozen weights
            are not those that the state was trained on.
        """
        folder, metadata = self._open(step)
        info = metadata.custom_metadata
        if self._frozen and info["frozen"] != self._frozen:
            raise CheckpointMismatchError(
                f"{folder} was trained above frozen weights with the fingerprint "
                f"{info['frozen'][:12] or 'of none'}; those given have {self._frozen[:12]}. Is "
                "config.model.checkpoint still the same model?"
            )
        wanted = _by_path(abstract)
        _check_same(folder, metadata.metadata, wanted)
        leaves = _load(folder, {path: _target(leaf) for path, leaf in wanted.items()})
        state = jax.tree.unflatten(jax.tree.structure(abstract), [leaves[path] for path in wanted])
        return Restored(state, _decode(info["data"]), info["metrics"])

    def load_part(self, step: int, name: str) -> dict:
        """Reads the subtree `name` of a state alone, as a nested dict of host arrays.

        For states that hold dicts there, e.g. 'trained'.

        Raises:
          CheckpointError: no such checkpoint, or its state has no part of that name.
        """
        folder, metadata = self._open(step)
        parts = {path.partition("/")[0] for path in metadata.metadata}
        if name not in parts:
            raise CheckpointError(f"{folder} has no part {name!r}; it has {sorted(parts)}")
        targets = {
            path: np.ndarray if path.startswith(name + "/") else ocp.PLACEHOLDER
            for path in metadata.metadata
        }
        leaves = _load(folder, targets)
        part = {
            path.removeprefix(name + "/"): leaves[path]
            for path, target in targets.items()
            if target is np.ndarray
        }
        return traverse_util.unflatten_dict(part, sep="/")

    def _open(self, step: int) -> tuple[pathlib.Path, Any]:
        if step not in self._complete():
            raise CheckpointError(
                f"{self.folder} has no complete checkpoint of step {step}; it has those of "
                f"{self.steps() or 'no step'}"
            )
        folder = self.folder / str(step)
        return folder, _metadata(folder)

    def _complete(self) -> dict[int, dict]:
        """{step: what was saved beside the arrays}."""
        folders = {
            int(entry.name): entry for entry in self.folder.glob("*") if entry.name.isdecimal()
        }
        for step in folders.keys() - self._infos.keys():
            info = _info(folders[step])
            if info is not None:
                self._infos[step] = info
        return {step: self._infos[step] for step in folders if step in self._infos}

    def _score(self, metrics: Mapping[str, float]) -> float | None:
        name = self._best_metric or ""
        value = metrics.get(name.removeprefix("-"), math.nan)
        if math.isnan(value):
            return None
        return -value if name.startswith("-") else value

    def _prune(self) -> None:
        """Removes what need not be kept; a rename first, so that a kill leaves no half of one."""
        if jax.process_index() != 0:
            return
        steps = self.steps()
        for step in set(steps[: -self._keep_last]) - {self.best()}:
            removed = (self.folder / str(step)).rename(self.folder / f"{step}{_REMOVED}")
            shutil.rmtree(removed, ignore_errors=True)

    def _tidy(self) -> None:
        """Before the first save: removes what a killed run left, moves damaged folders aside."""
        self._tidied = True
        if jax.process_index() != 0:
            return
        complete = self._complete()
        for folder in self.folder.glob("*"):
            if folder.name.endswith((_UNFINISHED, _REMOVED)):
                shutil.rmtree(folder, ignore_errors=True)
            elif folder.name.isdecimal() and int(folder.name) not in complete:
                aside = folder.with_name(f"{folder.name}.damaged")
                shutil.rmtree(aside, ignore_errors=True)
                logging.warning("%s is not a complete checkpoint; moved to %s", folder, aside)
                folder.rename(aside)

    def _save_error(self, step: int, error: Exception) -> CheckpointSaveError:
        if isinstance(error, CheckpointSaveError):
            reason = str(error)
        else:
            free = shutil.disk_usage(self.folder).free
            reason = f"{_first_line(error)} ({_megabytes(free)} free on the device)"
        latest = self.latest_complete()
        kept = "there is none yet" if latest is None else f"step {latest} is complete and untouched"
        return CheckpointSaveError(
            f"the checkpoint of step {step} could not be written to {self.folder}: {reason}; "
            f"latest checkpoint: {kept}"
        )


def _by_path(tree: Any) -> dict[str, Any]:
    """{'/'-joined path: leaf} of any pytree, in the order of its leaves."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _storable(leaf: Any) -> Any:
    return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)


def _target(leaf: Any) -> Any:
    """What tells Orbax where to put a leaf: a shape with a sharding, or the host."""
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        return np.ndarray
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _check_same(folder: Path, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    def text(leaf: Any) -> str:
        return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"

    arrays = {path: leaf if _is_shaped(leaf) else np.asarray(leaf) for path, leaf in wanted.items()}
    differences = [f"{path}: not in the checkpoint" for path in arrays if path not in saved]
    differences += [f"{path}: only in the checkpoint" for path in saved if path not in arrays]
    differences += [
        f"{path}: {text(saved[path])} in the checkpoint, {text(leaf)} wanted"
        for path, leaf in arrays.items()
        if path in saved and text(saved[path]) != text(leaf)
    ]
    if differences:
        raise CheckpointMismatchError(
            f"{folder} holds another tree; {len(differences)} leaves differ:\n  "
            + "\n  ".join(differences)
        )


def _is_shaped(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def _info(folder: pathlib.Path) -> dict | None:
    """What `save` wrote beside the arrays; None where the folder is not a whole checkpoint."""
    try:
        info = _metadata(folder).custom_metadata
    except CheckpointError:
        return None
    return info if info and "format" in info else None


def _metadata(folder: pathlib.Path) -> Any:
    _check_exists(folder)
    try:
        return ocp.metadata(folder)
    except Exception as error:
        raise CheckpointError(
            f"{folder} is not a complete checkpoint: {_first_line(error)}"
        ) from error


def _load(folder: pathlib.Path, targets: Any) -> Any:
    try:
        return ocp.load(folder, targets)
    except Exception as error:
        raise CheckpointError(f"{folder} could not be read: {_first_line(error)}") from error


def _check_exists(folder: pathlib.Path) -> None:
    if folder.is_dir():
        return
    if list(folder.parent.glob(f"{folder.name}{_UNFINISHED}*")):
        raise CheckpointError(
            f"{folder} is half written: whoever wrote it was stopped ({folder.name}{_UNFINISHED} "
            "lies beside it); write it again"
        )
    raise CheckpointError(f"{folder} does not exist or is not a folder")


def _check_free_space(folder: pathlib.Path, leaves: Any) -> None:
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(leaves))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise CheckpointSaveError(
            f"no space left on the device: {_megabytes(needed)} needed, {_megabytes(free)} free"
        )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or ['no reason given'])[0]}"


def _encode(data: Any) -> Any:
    return (
        {"base64": base64.b64encode(data).decode()} if isinstance(data, bytes) else {"json": data}
    )


def _decode(encoded: Mapping[str, Any]) -> Any:
    return base64.b64decode(encoded["base64"]) if "base64" in encoded else encoded["json"]
