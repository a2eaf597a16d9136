"""UMT's golden numbers, and model folders of the weights that gave them."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from safetensors.numpy import load_file

from vlt.convert import convert, parse_settings
from vlt.convert.layouts.umt import UMT
from vlt.convert.tables.table import to_tensors
from vlt.model_io.build import make_model
from vlt.model_io.folder import read_model_folder
from vlt.models.spec import with_visual

HEADS = {
    "retrieval": ("visual.heads=4", "text.heads=3", "visual.image_size=24"),
    "qa": ("visual.heads=3", "text.heads=3", "visual.image_size=24"),
}
TOKENS, TEXT, LOSS, PROBABILITY, GRADIENT = 2e-5, 5e-5, 2e-4, 1e-4, 1e-3


def words(path: Path) -> str:
    """Writes a BERT vocabulary of 60 words, with the golden numbers' special tokens."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    path.write_text("\n".join([*special, *(f"w{i}" for i in range(55))]) + "\n")
    return str(path)


def source(shared: Path, name: str) -> Path:
    """The file of tensors under their published names."""
    return shared / f"golden/umt/{name}.safetensors"


def weights(shared: Path, name: str) -> dict[str, np.ndarray]:
    """The file's tensors by published name."""
    return load_file(source(shared, name))


def converted(shared: Path, name: str, work: Path, *settings: str) -> Path:
    """A model folder converted from them."""
    given = parse_settings([*HEADS[name], *settings])
    tokenizer = words(work / "vocab.txt")
    convert(source(shared, name), work / "model", settings=given, tokenizer=tokenizer)
    return work / "model"


def loaded(folder: Path, frames: int, **changes: Any) -> tuple[Any, Any]:
    """The module and its parameters. changes: fields of the vision tower's spec."""
    config, params = read_model_folder(folder)
    # Without the text model's dropout, which only training uses.
    text = dataclasses.replace(config.spec.text, dropout=0.0)
    spec = dataclasses.replace(with_visual(config.spec, **changes), text=text)
    return make_model(spec, config.methods, frames), params


def norms(kind: str, gradient: Any, names: np.ndarray) -> np.ndarray:
    """Norms of our gradient, for tensors of these published names."""
    family = UMT.for_kind(kind)
    leaves = dict(traverse_util.flatten_dict(jax.device_get(gradient), sep="/"))
    tensors, left = to_tensors(family.rules, leaves)
    assert not left
    return np.array([np.linalg.norm(tensors[family.canonical(str(name))]) for name in names])
