"""Reads the tensors of a published checkpoint, whatever its file format; runs nothing in it."""

import dataclasses
from pathlib import Path
from typing import Any

from vlt.convert.errors import ConversionError
from vlt.convert.files.json_files import read_json
from vlt.convert.files.npz_files import is_npz, nested, read_npz
from vlt.convert.files.safetensors_files import read_safetensors
from vlt.convert.files.state_dict import StateDict, state_dict
from vlt.convert.files.torch_files import read_torch_file

TORCH_SUFFIXES = (".pt", ".pth", ".bin")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


@dataclasses.dataclass
class Checkpoint(StateDict):
    """path: the file or folder. config: config.json of a Hugging Face folder; None for a file."""

    path: Path = Path()
    config: dict[str, Any] | None = None

    @property
    def folder(self) -> Path | None:
        return self.path if self.path.is_dir() else None

    def take_off(self, prefix: str) -> None:
        """Removes a prefix from the names of tensors and other entries, and records it."""
        self.tensors = {name.removeprefix(prefix): x for name, x in self.tensors.items()}
        self.other = [name.removeprefix(prefix) for name in self.other]
        self.taken_off += [prefix] if prefix else []


def read_checkpoint(path: Path, key: str | None = None) -> Checkpoint:
    """Reads a safetensors, torch or .npz file of any name, an index of shards or a Hugging Face
    folder.

    key: as in `state_dict`.

    Raises ConversionError: there is no such file, it is unreadable, or it has no tensors;
    UnsafePickleError.
    """
    if path.is_dir():
        return _read_folder(path, key)
    if not path.exists():
        raise ConversionError(f"{path}: no such file or folder")
    sharded = path.name.endswith(".index.json")
    found = _read_shards(path, key) if sharded else _read_file(path, key)
    return Checkpoint(**vars(found), path=path)


def _read_folder(folder: Path, key: str | None) -> Checkpoint:
    config = folder / "config.json"
    if not config.exists():
        raise ConversionError(
            f"{folder}: no config.json, so not a Hugging Face folder; name a weight file in it"
        )
    for name in _WEIGHTS:
        file, index = folder / name, folder / f"{name}.index.json"
        if file.exists() or index.exists():
            stated = read_json(config)
            found = _read_file(file, key) if file.exists() else _read_shards(index, key)
            return Checkpoint(**vars(found), path=folder, config=stated)
    raise ConversionError(f"{folder}: holds neither {' nor '.join(_WEIGHTS)} (nor their shards)")


def _read_shards(index: Path, key: str | None) -> StateDict:
    placement = read_json(index).get("weight_map")
    if not isinstance(placement, dict) or not all(isinstance(n, str) for n in placement.values()):
        raise ConversionError(f"{index}: no 'weight_map' of file names, so not an index of shards")
    saved: dict[Any, Any] = {}
    for shard in sorted(set(placement.values())):
        if Path(shard).name != shard:
            raise ConversionError(f"{index}: shard {shard!r} is outside its folder")
        held = _load(index.parent / shard)
        if not isinstance(held, dict):
            raise ConversionError(f"{index.parent / shard}: holds no dict of tensors")
        twice = [name for name in held if name in saved or placement.get(name, shard) != shard]
        if twice:
            raise ConversionError(f"{index}: {twice[0]} is in {shard} and in another shard")
        saved |= held
    absent = sorted(set(placement) - set(saved))
    if absent:
        raise ConversionError(f"{index}: its shards lack {', '.join(absent)}")
    return state_dict(index, saved, key)


def _read_file(path: Path, key: str | None) -> StateDict:
    return state_dict(path, _load(path), key)


def _load(path: Path) -> Any:
    """Reads a file, whose first bytes tell its format: files get renamed as they are passed on."""
    if not path.is_file():
        raise ConversionError(f"{path}: no such file, or not a plain one")
    with path.open("rb") as file:
        start = file.read(9)
    # safetensors: a header's size, then JSON. torch: zip archives and pickles.
    torch = start.startswith((b"PK\3\4", b"\x80"))
    if start[8:] == b"{" or (path.suffix == ".safetensors" and not torch):
        found = read_safetensors(path)
        # Flax's names, as in .npz files.
        return nested(found) if found and all("/" in name for name in found) else found
    if (start.startswith(b"PK") or path.suffix == ".npz") and is_npz(path):
        return read_npz(path)
    return read_torch_file(path)
