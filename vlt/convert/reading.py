"""Tensors of a published checkpoint, whatever file they are in. Runs nothing that a file holds."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from vlt.convert.errors import ConversionError
from vlt.convert.torch_files import read_torch_file

TORCH_SUFFIXES = (".pt", ".pth", ".bin")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_TORCHSCRIPT_STATE = ("training", "_is_full_backward_hook")
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")


@dataclasses.dataclass
class Checkpoint:
    """tensors: by published name. other: names of entries that are no tensors. folder: a Hugging
    Face folder, with its config.json in `config`, or None for a single file."""

    path: Path
    tensors: dict[str, np.ndarray]
    other: list[str] = dataclasses.field(default_factory=list)
    config: dict[str, Any] | None = None

    @property
    def folder(self) -> Path | None:
        return self.path if self.path.is_dir() else None


def read_checkpoint(path: Path) -> Checkpoint:
    """A .safetensors, .pt, .pth or .bin file, an index of shards, or a Hugging Face folder.

    Raises ConversionError: nothing there, unreadable, or no tensors; UnsafePickleError.
    """
    if path.is_dir():
        return _read_folder(path)
    if not path.exists():
        raise ConversionError(f"{path}: no such file or folder")
    if path.name.endswith(".index.json"):
        return Checkpoint(path, *_read_shards(path))
    return Checkpoint(path, *_read_file(path))


def _read_folder(folder: Path) -> Checkpoint:
    config = folder / "config.json"
    if not config.exists():
        raise ConversionError(
            f"{folder}: no config.json, so not a Hugging Face folder; name a weight file in it"
        )
    for name in _WEIGHTS:
        if (folder / name).exists():
            return Checkpoint(folder, *_read_file(folder / name), config=read_json(config))
        index = folder / f"{name}.index.json"
        if index.exists():
            return Checkpoint(folder, *_read_shards(index), config=read_json(config))
    raise ConversionError(f"{folder}: holds neither {' nor '.join(_WEIGHTS)} (nor their shards)")


def _read_shards(index: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    placement = read_json(index).get("weight_map")
    if not isinstance(placement, dict):
        raise ConversionError(f"{index}: no 'weight_map', so not an index of shards")
    tensors: dict[str, np.ndarray] = {}
    for shard in sorted(set(placement.values())):
        if Path(shard).name != shard:
            raise ConversionError(f"{index}: shard {shard!r} lies outside of its folder")
        tensors |= _read_file(index.parent / shard)[0]
    absent = sorted(set(placement) - set(tensors))
    if absent:
        raise ConversionError(f"{index}: its shards lack {', '.join(absent)}")
    return tensors, []


def _read_file(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    if not path.exists():
        raise ConversionError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        try:
            return safetensors.numpy.load_file(path), []
        except (safetensors.SafetensorError, OSError, KeyError) as error:
            raise ConversionError(f"{path}: broken safetensors file: {error}") from error
    if path.suffix not in TORCH_SUFFIXES:
        raise ConversionError(
            f"{path}: name a .safetensors, {', '.join(TORCH_SUFFIXES)} file or a folder"
        )
    return _state_dict(path, read_torch_file(path))


def _state_dict(path: Path, saved: Any) -> tuple[dict[str, np.ndarray], list[str]]:
    """Tensors of a flat, wrapped or nested (TorchScript) dict, and the names of all else."""
    if not isinstance(saved, dict):
        raise ConversionError(f"{path}: holds a {type(saved).__name__}, not a dict of tensors")
    other: list[str] = []
    for name in _WRAPPERS:
        inner = saved.get(name)
        if isinstance(inner, dict) and _tensors(inner):
            other += [key for key in saved if key != name]
            saved = inner
            break
    tensors = _tensors(saved)
    if not tensors:
        raise ConversionError(f"{path}: holds no tensors; its keys are {[*saved][:8]}")
    names = [key for key in _leaves(saved) if key not in tensors]
    other += [name for name in names if name.rpartition(".")[2] not in _TORCHSCRIPT_STATE]
    return tensors, other


def _tensors(tree: dict[str, Any]) -> dict[str, np.ndarray]:
    return {key: leaf for key, leaf in _leaves(tree).items() if isinstance(leaf, np.ndarray)}


def _leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dict -> dotted names."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            leaves |= _leaves(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, or ConversionError naming the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConversionError(f"{path}: not readable JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConversionError(f"{path}: holds a {type(content).__name__}, not an object")
    return content
