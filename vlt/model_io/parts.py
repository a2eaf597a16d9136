"""Parts of a model that other model folders hold: a vision tower, or what a method has learned."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from vlt.data.manifests.resources import resolve
from vlt.model_io.build import abstract_params
from vlt.model_io.folder import ModelFolderError, read_model_folder
from vlt.models.video_model import VideoModel
from vlt.pytrees.paths import by_path

Parts = Sequence[tuple[str, str]]


def read_parts(parts: Parts, module: VideoModel, loaded: Mapping[str, Any]) -> dict[str, Any]:
    """{path: leaf} of the module's leaves under each (path, folder), from that model folder.

    `visual` is a vision tower, `visual/btadapter` a branch that was trained elsewhere. What the
    folder has there beyond the module's leaves is left out, which is logged.

    Args:
        loaded: the checkpoint's leaves.

    Raises:
        ModelFolderError: a folder cannot be read, or lacks leaves or has them in other shapes.
        ValueError: no leaf of the module is under a path, or the checkpoint already has one.
    """
    if not parts:
        return {}
    wanted, known = by_path(abstract_params(module)), by_path(loaded)
    found: dict[str, Any] = {}
    for path, name in parts:
        own = {leaf: x for leaf, x in wanted.items() if under(leaf, path)}
        if not own:
            raise ValueError(f"model.parts: the model has no leaf under {path!r}")
        if both := [leaf for leaf in own if leaf in known]:
            raise ValueError(f"model.parts: {both[0]} is in the checkpoint; name another part")
        folder = resolve(name)
        held = by_path(read_model_folder(folder)[1])
        for leaf, x in own.items():
            shape = list(held[leaf].shape) if leaf in held else "none"
            if shape != list(x.shape):
                raise ModelFolderError(
                    f"model.parts: {folder} has {leaf} of shape {shape}, the model of "
                    f"{list(x.shape)}"
                )
            found[leaf] = np.asarray(held[leaf])
        if left := [leaf for leaf in held if under(leaf, path) and leaf not in own]:
            logging.info("model.parts: left out of %s: %s", folder, ", ".join(left))
    return found


def part_methods(parts: Parts) -> set[str]:
    """The names of the methods whose leaves are in parts: the last components of paths."""
    return {path.rpartition("/")[2] for path, _ in parts}


def under(leaf: str, path: str) -> bool:
    """Whether a leaf is in the part at this path."""
    return leaf.startswith(f"{path}/")
