"""Averages weights over checkpoints of a run, and blends those of two models."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from vlt.data.manifests.resources import resolve
from vlt.model_io.folder import ModelFolderError, read_model_folder
from vlt.model_io.loading import LoadedModel
from vlt.models.leaf_names import FRAMES, WORDS
from vlt.training.checkpoints import TrainingCheckpoints


def mean_of_checkpoints(checkpoints: TrainingCheckpoints, steps: Sequence[int]) -> dict[str, Any]:
    """The trained leaves, averaged over the checkpoints of these steps (at least one).

    Raises:
        CheckpointError: one of them does not exist.
    """
    parts = (checkpoints.load_part(step, "trained") for step in steps)
    first = next(parts)
    total = jax.tree.map(np.float64, first)
    for part in parts:
        total = jax.tree.map(np.add, total, part)
    return jax.tree.map(lambda x, leaf: (x / len(steps)).astype(leaf.dtype), total, first)


def blended(model: LoadedModel, other: str, share: float) -> LoadedModel:
    """share * other + (1 - share) * own for every leaf that both models have, the rest as it is.

    ViCLIP's frame embeddings stay its own (WiSE-FT, Wortsman et al., arXiv:2109.01903, as in
    ViCLIP). A longer table of text positions is cut to its first rows, as ViCLIP does to CLIP's.

    Args:
        other: a model folder, or a packaged model.

    Raises:
        ModelFolderError: `other` does not exist, has no leaf of `model`, or some of other shapes.
        ValueError: a share outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the share of {other} must be between 0 and 1, got {share}")
    own, theirs = _leaves(model.params), _leaves(read_model_folder(resolve(other))[1])
    # The image model that it is blended with has no embeddings of frames.
    common = sorted(own.keys() & theirs.keys() - {FRAMES})
    if WORDS in common:
        theirs[WORDS] = theirs[WORDS][: len(own[WORDS])]
    unlike = [
        f"{path}: {[*own[path].shape]} here, {[*theirs[path].shape]} there"
        for path in common
        if own[path].shape != theirs[path].shape
    ]
    if unlike or not common:
        differences = "\n  ".join(unlike) or "no leaf is in both"
        raise ModelFolderError(f"{other} cannot be blended with the run's model:\n  {differences}")
    mixed = {path: _mix(theirs[path], own[path], share) for path in common}
    return dataclasses.replace(model, params=traverse_util.unflatten_dict(own | mixed, sep="/"))


def _leaves(params: dict[str, Any]) -> dict[str, Any]:
    return traverse_util.flatten_dict(params, sep="/")


def _mix(other: Any, own: Any, share: float) -> np.ndarray:
    mixed = share * np.float64(other) + (1 - share) * np.float64(own)
    return mixed.astype(own.dtype)
