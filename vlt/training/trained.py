"""The model that a run has trained."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vlt import configuration
from vlt.data.text.tokenize import Tokenizer
from vlt.evaluation.clips import fitted
from vlt.methods import build_methods
from vlt.model_io.build import abstract_params
from vlt.model_io.loading import LoadedModel, load_model
from vlt.model_io.view import View
from vlt.models.points import copy_leaves
from vlt.pytrees.partition import merge
from vlt.storage.trees import CheckpointError
from vlt.tasks.build import make_task
from vlt.tasks.task import Task
from vlt.training.averaging import mean_of_checkpoints
from vlt.training.checkpoints import TrainingCheckpoints
from vlt.training.rules import partition


def trained_model(
    workdir: Path, average: tuple[int, int] | None = None, weights: str = ""
) -> LoadedModel:
    """The model of a run at its best checkpoint, or else its latest, without leaves that only a
    loss used; for a run without steps, the model as it was evaluated.

    average: first and last step of the checkpoints whose mean is taken instead. weights: how those
    of a language model are held (vlt/models/narrow.py), which may differ from training.

    Raises:
        ConfigError, CheckpointError, ModelFolderError: no such run, checkpoint or base.
    """
    config = configuration.load_saved(workdir)
    loaded = load_model(dict(config.model) | {"weights": weights}, config.seed)
    if any(method.keeps_classes for method in loaded.module.methods):
        tokenizer = Tokenizer.load(loaded.tokenizer, config.model.context)
        loaded = with_classes(loaded, make_task(config, loaded.module.spec, tokenizer))
    params = loaded.params
    checkpoints = TrainingCheckpoints(workdir, 1, config.train.best_metric)
    if config.train.steps or checkpoints.steps() or average is not None:
        params = _of_checkpoints(checkpoints, config, params, average)
    found = _without_training_leaves(loaded, params)
    described = dataclasses.replace(found.config, view=_evaluated_on(config, found))
    return dataclasses.replace(found, config=described)


def _of_checkpoints(
    checkpoints: TrainingCheckpoints,
    config: ConfigDict,
    params: dict[str, Any],
    average: tuple[int, int] | None,
) -> dict[str, Any]:
    _, frozen = partition(params, config.rules)
    steps = _exported_steps(checkpoints, average)
    if average is None:
        print(f"{checkpoints.folder.parent}: {checkpoints.describe(steps[0])}", file=sys.stderr)
    return merge(mean_of_checkpoints(checkpoints, steps), frozen)


def with_classes(model: LoadedModel, task: Task) -> LoadedModel:
    """The model as training starts, with what its methods keep about the task's classes."""
    return dataclasses.replace(model, params=task.initial_params(model.module, model.params))


def _exported_steps(checkpoints: TrainingCheckpoints, average: tuple[int, int] | None) -> list[int]:
    kept = checkpoints.steps()
    if not kept:
        raise CheckpointError(f"{checkpoints.folder.parent} holds no complete checkpoint")
    if average is None:
        return [checkpoints.best() or kept[-1]]
    first, last = average
    steps = [step for step in kept if first <= step <= last]
    if not steps:
        raise CheckpointError(
            f"{checkpoints.folder} has no checkpoint of steps {first} to {last}; it has those of "
            f"{kept}, and config.train.keep_last says how many are kept"
        )
    return steps


def _without_training_leaves(loaded: LoadedModel, params: dict[str, Any]) -> LoadedModel:
    kept = {
        name: options
        for name, options in loaded.config.methods.items()
        if not build_methods({name: options})[0].training_only
    }
    module = loaded.module.clone(methods=build_methods(kept))
    params = copy_leaves(abstract_params(module), params)
    config = dataclasses.replace(loaded.config, methods=kept)
    return LoadedModel(module, params, config, loaded.tokenizer)


def _evaluated_on(config: ConfigDict, model: LoadedModel) -> View:
    """The view of a video in the evaluation that chooses the best checkpoint, else in the first."""
    chosen = config.train.best_metric.partition("/")[0]
    spec = model.config.spec
    for name in sorted(config.evals, key=lambda name: name != chosen):
        if view := View.of_section(fitted(config.evals[name], spec)):
            return view
    return View(frames=config.model.frames)
