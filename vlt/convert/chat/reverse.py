"""A chat model's weights, or a part of them, back to published names, tensor by tensor."""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vlt.convert.chat.parts import PARTS
from vlt.convert.errors import ConversionError
from vlt.convert.files.arrays import dtype_named
from vlt.convert.files.safetensors_writer import write_safetensors
from vlt.convert.layouts.chat import LLAMA
from vlt.convert.layouts.families import get_family
from vlt.convert.layouts.llama import llama_json, meta_rules
from vlt.convert.layouts.methods import untold_methods
from vlt.convert.tables.family import Family
from vlt.convert.tables.table import Rule, sources_of
from vlt.convert.tokenizer import copy_words
from vlt.model_io.folder import ModelConfig
from vlt.models.spec import ChatSpec
from vlt.pytrees.fields import near
from vlt.pytrees.paths import by_path
from vlt.storage.trees import load_leaves, load_shapes

META = "llama_meta"
SHARD = 5 * 10**9  # bytes, as in transformers
_READ = 2**27  # bytes to read at a time


@dataclasses.dataclass(frozen=True)
class Published:
    """A tensor to write: its name, the leaves that it is made of, its shape and its dtype."""

    name: str
    rule: Rule
    paths: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


class ChatWriter:
    """Writes a model folder of kind chat in a published layout.

    family: its name; by default LLAMA's for the language model alone, else that of the layout that
    the folder was converted from, or of one with its connector. part: of `PARTS`; by default all.

    Raises ConversionError: an unknown part, one that the folder lacks, or leaves that the layout
    has no place for.
    """

    def __init__(self, folder: Path, config: ModelConfig, family: str | None, part: str | None):
        assert isinstance(config.spec, ChatSpec)
        self.folder, self.spec, self.notes = folder, config.spec, list[str]()
        if part is not None and part not in PARTS:
            raise ConversionError(f"--part={part}: unknown part{near(part, PARTS)}")
        self.layout = _layout(config, family, part)
        self.tensors = self._tensors(config.source.get("dtypes", {}), part)
        if part in (None, "vision"):
            self.notes += untold_methods(config, self.layout)

    def _tensors(self, dtypes: Mapping[str, str], part: str | None) -> list[Published]:
        shapes = by_path(load_shapes(self.folder / "weights"))
        wanted = [path for path in shapes if part is None or re.fullmatch(PARTS[part], path)]
        if not wanted:
            raise ConversionError(f"{self.folder}: has no {part}")
        sources, left = sources_of(self.layout.rules, wanted)
        if left:
            lines = [f"no place in layout {self.layout.name} (--family chooses another):", *left]
            raise ConversionError("\n  ".join(lines))
        found = []
        for name, (rule, paths) in sources.items():
            leaves = [shapes[path] for path in paths]
            empty = [np.broadcast_to(np.zeros((), bool), leaf.shape) for leaf in leaves]
            dtype = dtype_named(dtypes.get(paths[0], np.dtype(leaves[0].dtype).name))
            found.append(Published(name, rule, paths, rule.transform.join(empty).shape, dtype))
        return found

    def values(self, tensors: list[Published]) -> Iterator[np.ndarray]:
        """Yields the tensors' values one by one; adds a note on each that is rounded."""
        for tensor, array in self._joined(tensors):
            rounded = array.astype(tensor.dtype)
            if not np.array_equal(rounded.astype(array.dtype), array, equal_nan=True):
                self.notes.append(f"rounded to {tensor.dtype}: {tensor.name}")
            yield rounded

    def _joined(self, tensors: list[Published]) -> Iterator[tuple[Published, np.ndarray]]:
        for group in _groups(tensors, _READ):
            paths = [path for tensor in group for path in tensor.paths]
            leaves = load_leaves(self.folder / "weights", paths)
            for tensor in group:
                yield tensor, tensor.rule.transform.join([leaves[p] for p in tensor.paths])

    def write_file(self, file: Path) -> None:
        """Writes one safetensors file."""
        self._write(file, self.tensors)

    def write_folder(self, folder: Path) -> None:
        """Writes a language model as transformers reads it: config.json, shards, tokenizer."""
        config = llama_json(self.spec.text)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
        shards = _groups(self.tensors, SHARD)
        names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
        if len(shards) == 1:
            self._write(folder / "model.safetensors", shards[0])
        else:
            for name, shard in zip(names, shards, strict=True):
                self._write(folder / name, shard)
            _write_index(folder, dict(zip(names, shards, strict=True)))
        copy_words(self.folder / "tokenizer", folder)

    def _write(self, file: Path, tensors: list[Published]) -> None:
        shapes = {tensor.name: (tensor.shape, tensor.dtype) for tensor in tensors}
        write_safetensors(file, shapes, self.values(tensors))


def _layout(config: ModelConfig, family: str | None, part: str | None) -> Family:
    assert isinstance(config.spec, ChatSpec)
    if family == META:
        return dataclasses.replace(LLAMA, name=META, rules=meta_rules(config.spec.text.heads))
    if family is None and part == "llm":
        return LLAMA
    return get_family(family or config.source.get("layout") or _like(config.spec))


def _like(spec: ChatSpec) -> str:
    """The layout of the published model with the same connector, for one that was trained here."""
    if spec.qformer is None:
        return "llava"
    return "instructblip" if spec.instructed else "minigpt4"


def _groups(tensors: list[Published], most: int) -> list[list[Published]]:
    """Groups of successive tensors, of at most `most` bytes each; a larger tensor is alone."""
    groups: list[list[Published]] = [[]]
    size = 0
    for tensor in tensors:
        size += tensor.nbytes
        if groups[-1] and size > most:
            groups.append([])
            size = tensor.nbytes
        groups[-1].append(tensor)
    return groups


def _write_index(folder: Path, shards: Mapping[str, list[Published]]) -> None:
    total = sum(tensor.nbytes for shard in shards.values() for tensor in shard)
    placement: dict[str, Any] = {t.name: file for file, shard in shards.items() for t in shard}
    content = {"metadata": {"total_size": total}, "weight_map": placement}
    text = json.dumps(content, indent=2)
    (folder / "model.safetensors.index.json").write_text(text + "\n", "utf-8")
