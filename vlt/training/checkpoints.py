"""The checkpoints of a training run: kept, pruned, restored."""

import hashlib
import json
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

from vlt.pytrees.checksum import checksums
from vlt.pytrees.paths import by_path
from vlt.runtime.processes import broadcast_from_primary, is_primary, wait_for_all
from vlt.storage.files import write_whole
from vlt.storage.trees import (
    UNFINISHED,
    CheckpointError,
    CheckpointMismatchError,
    CheckpointSaveError,
    Path,
    as_array,
    check_free_space,
    check_same,
    first_line,
    load_arrays,
    megabytes,
    placement,
    read_metadata,
)

# Metrics of an evaluation at a checkpoint's step, in its folder.
_METRICS = "evaluation.json"
# Bump when code for older files would misread newer ones.
_FORMAT = 1
_REMOVED = ".removed"
_ASIDE = ".aside"


class Restored(NamedTuple):
    """What `TrainingCheckpoints.restore` gives back.

    Attributes:
      state: the pytree that was saved, on the devices asked for.
      data: the state of the data iterator, as given to `save`.
    """

    state: Any
    data: dict[str, Any]


class TrainingCheckpoints:
    """The checkpoints of one training run, in workdir/checkpoints/STEP.

    Frozen weights are not saved: each checkpoint names their fingerprint, and `restore` refuses
    others. Opening and reading change nothing on disk, so a run that is still writing can be read;
    only `save`, `wait` and `close` remove files.

    Args:
      workdir: a local folder.
      keep_last: number of latest checkpoints to keep.
      best_metric: also keep the checkpoint whose metric of this name is largest, or smallest when
        the name begins with '-' ('-loss'). Checkpoints without the metric, or where it is not a
        finite number, are ignored.
      frozen: `fingerprint` of the frozen parameters.
    """

    def __init__(
        self, workdir: Path, keep_last: int, best_metric: str | None = None, frozen: str = ""
    ):
        if keep_last < 1:
            raise ValueError(f"keep_last must be >= 1, got {keep_last}")
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
        """The step to resume from; None where there is none. Half-written ones don't count.

        Raises:
          CheckpointError: the latest is damaged. Resuming from an older one loses work, so the user
            has to ask for it (`go_back`).
        """
        latest = self._latest()
        if damaged := [step for step in self._damaged() if latest is None or step > latest]:
            folder = self.folder / str(max(damaged))
            raise CheckpointError(
                f"{folder} is damaged: it has a checkpoint's name but is not one"
                f"{self._advice(latest)}"
            )
        return latest

    def go_back(self, step: int) -> None:
        """Renames the checkpoints after this step to STEP.aside, so that this one is the latest.

        Raises:
          CheckpointError: there is no complete checkpoint of this step.
        """
        self._open(step)
        for later in {*self._complete(), *self._damaged()}:
            if later > step:
                self._put_aside(self.folder / str(later))
        wait_for_all(f"back to step {step}")

    def best(self) -> int | None:
        """The step of the best checkpoint by `best_metric` (the later of equals), or None."""
        scores = {step: self._score(step) for step in self._complete()}
        rated = {step: score for step, score in scores.items() if score is not None}
        return max(rated, key=lambda step: (rated[step], step), default=None)

    def chosen(self) -> int | None:
        """The step of the checkpoint that evaluations and exports take: the best, or else the
        latest; None where there is none."""
        best = self.best()
        return self._latest() if best is None else best

    def describe(self, step: int) -> str:
        """Which of the run's checkpoints it is, in words."""
        if step != self.best():
            return f"step {step}" + (", the latest" if step == self._latest() else "")
        name = (self._best_metric or "").removeprefix("-")
        return f"step {step}, best by {name}={self.metrics(step)[name]:.6g}"

    def metrics(self, step: int) -> dict[str, float]:
        """What was measured at the step of a complete checkpoint; {} where nothing was."""
        # Older checkpoints hold their metrics beside the arrays.
        return _read_metrics(self.folder / str(step)) or self._complete()[step].get("metrics", {})

    def add_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Saves what was measured at a checkpoint's step, then removes checkpoints not to be kept.

        Raises:
          CheckpointSaveError: the save in progress failed.
        """
        self.wait()
        if is_primary():
            numbers = {name: float(value) for name, value in metrics.items()}
            text = json.dumps(_seal({"metrics": numbers}))
            write_whole(self.folder / str(step) / _METRICS, text + "\n")
        wait_for_all(f"metrics of step {step}")
        self._prune()

    def save(self, step: int, state: Any, data: Mapping[str, Any]) -> None:
        """Copies the state and returns; writing goes on in the background.

        A step that is already saved is left as it is. One save runs at a time: this waits for the
        previous one.

        Args:
          step: number of optimiser steps made.
          state: pytree of arrays, e.g. trained parameters, optimiser state, step, seed.
          data: state of the data iterator after the batches that the state has consumed: a
            JSON-able dict; the same on every process (counts of batches, not of files).

        Raises:
          CheckpointSaveError: this or the previous save failed, e.g. no space is left on the
            device. Older checkpoints are untouched and `save` can be called again.
        """
        self.wait()
        if not self._tidied:
            self._tidy()
        if broadcast_from_primary(step in self._complete()):
            return
        leaves = {path: as_array(leaf) for path, leaf in by_path(state).items()}
        info = {
            "format": _FORMAT,
            "checksums": checksums(leaves),
            "data": dict(data),
            "frozen": self._frozen,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            check_free_space(self.folder, leaves)
            response = ocp.save_async(self.folder / str(step), leaves, custom_metadata=_seal(info))
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
        wanted = by_path(abstract)
        check_same(folder, metadata.metadata, wanted)
        try:
            leaves = load_arrays(folder, {path: placement(leaf) for path, leaf in wanted.items()})
            _check_sums(folder, leaves, info["checksums"])
        except CheckpointError as error:
            raise CheckpointError(f"{error}{self._advice(self._latest(before=step))}") from error
        state = jax.tree.unflatten(jax.tree.structure(abstract), [leaves[path] for path in wanted])
        data = info["data"]
        return Restored(state, data.get("json", data))  # older checkpoints wrap it

    def load_part(self, step: int, name: str) -> dict:
        """Reads only the subtree `name` of a state, as a nested dict of host arrays.

        For subtrees that are dicts, e.g. 'trained'.

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
        leaves = load_arrays(folder, targets)
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
        return folder, read_metadata(folder)

    def _latest(self, before: float = math.inf) -> int | None:
        return max((step for step in self._complete() if step < before), default=None)

    def _advice(self, previous: int | None) -> str:
        """What to do about a damaged checkpoint, as the end of an error message."""
        if previous is None:
            return "; there is no other one: another --workdir starts a new run"
        return f"; --restore={self.folder / str(previous)} goes on from the one before it"

    def _damaged(self) -> list[int]:
        """Steps whose folder has a final name but is not a complete checkpoint."""
        return sorted(self._folders().keys() - self._complete().keys())

    def _folders(self) -> dict[int, pathlib.Path]:
        entries = self.folder.glob("*")
        return {int(entry.name): entry for entry in entries if entry.name.isdecimal()}

    def _complete(self) -> dict[int, dict]:
        """{step: what was saved beside the arrays}."""
        folders = self._folders()
        for step in folders.keys() - self._infos.keys():
            info = _info(folders[step])
            if info is not None:
                self._infos[step] = info
        return {step: self._infos[step] for step in folders if step in self._infos}

    def _score(self, step: int) -> float | None:
        name = self._best_metric or ""
        value = self.metrics(step).get(name.removeprefix("-"), math.nan)
        if not math.isfinite(value):
            return None
        return -value if name.startswith("-") else value

    def _prune(self) -> None:
        """Removes what need not be kept; renames it first, so that a kill leaves no half of one."""
        if not is_primary():
            return
        steps = self.steps()
        for step in set(steps[: -self._keep_last]) - {self.best()}:
            removed = (self.folder / str(step)).rename(self.folder / f"{step}{_REMOVED}")
            shutil.rmtree(removed, ignore_errors=True)

    def _tidy(self) -> None:
        """Before the first save, removes what a killed run left and puts damaged folders aside."""
        self._tidied = True
        if not is_primary():
            return
        for folder in self.folder.glob("[0-9]*"):
            if folder.name.endswith((UNFINISHED, _REMOVED)):
                shutil.rmtree(folder, ignore_errors=True)
        for step in self._damaged():
            self._put_aside(self.folder / str(step))

    def _put_aside(self, folder: pathlib.Path) -> None:
        if not is_primary():
            return
        aside = folder.with_name(f"{folder.name}{_ASIDE}")
        shutil.rmtree(aside, ignore_errors=True)
        logging.warning("%s is put aside as %s", folder, aside)
        folder.rename(aside)

    def _save_error(self, step: int, error: Exception) -> CheckpointSaveError:
        if isinstance(error, CheckpointSaveError):
            reason = str(error)
        else:
            free = shutil.disk_usage(self.folder).free
            reason = f"{first_line(error)} ({megabytes(free)} free on the device)"
        latest = self._latest()
        kept = "there is none yet" if latest is None else f"step {latest} is complete and untouched"
        return CheckpointSaveError(
            f"the checkpoint of step {step} could not be written to {self.folder}: {reason}; "
            f"latest checkpoint: {kept}"
        )


def _info(folder: pathlib.Path) -> dict | None:
    """What `save` wrote beside the arrays; None where the folder is not a complete checkpoint."""
    try:
        info = read_metadata(folder).custom_metadata
    except CheckpointError:
        return None
    return info if info and info == _seal(info) else None


def _read_metrics(folder: pathlib.Path) -> dict[str, float] | None:
    """What `add_metrics` wrote; None where it wrote nothing, or the file is damaged."""
    file = folder / _METRICS
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if found == _seal(found):
            return found["metrics"]
    except FileNotFoundError:
        return None
    except (ValueError, AttributeError):
        pass
    logging.warning("%s is damaged: step %s counts as one not evaluated", file, folder.name)
    return None


def _seal(info: Mapping[str, Any]) -> dict[str, Any]:
    """What is saved beside the arrays, with a digest of all of it."""
    rest = {name: value for name, value in info.items() if name != "digest"}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    return rest | {"digest": digest}


def _check_sums(
    folder: pathlib.Path, leaves: Mapping[str, Any], expected: Mapping[str, int]
) -> None:
    """Raises CheckpointError, which lists the leaves whose bits differ from those saved."""
    found = checksums(leaves)
    changed = [path for path in leaves if found[path] != expected[path]]
    if changed:
        raise CheckpointError(f"{folder} is damaged: changed on disk: {', '.join(changed)}")
