"""Golden numbers of recognition methods, and their small models, converted."""

import dataclasses
from pathlib import Path

import numpy as np
from flax import traverse_util

from vlt.convert import convert, parse_settings, random_checkpoint
from vlt.convert.layouts.families import get_family
from vlt.convert.tables.table import to_tensors
from vlt.data.moving_shapes import VOCABULARY, write_tokenizer
from vlt.model_io.loading import LoadedModel, load_folder
from vlt.models.spec import DualEncoderSpec


def converted(shared: Path, name: str, folder: Path, *settings: str) -> LoadedModel:
    """The model of a golden file of weights, converted into a new folder within `folder`."""
    write_tokenizer(folder / "tokenizer")
    convert(
        shared / f"golden/{name}.safetensors",
        folder / "model",
        settings=parse_settings(settings),
        tokenizer=None if any(s.startswith("base=") for s in settings) else f"{folder}/tokenizer",
    )
    return load_folder(str(folder / "model"))


def check_gradients(golden: dict, family: str, gradients: dict, prefix: str = "") -> None:
    """Checks gradient norms of all tensors that have one, within a thousandth, and whole gradients.

    prefix: prefix of the entries `grad_names`, `grad_norms` and `grad/NAME`.
    """
    layout = get_family(family)
    found, left = to_tensors(layout.rules, traverse_util.flatten_dict(gradients, sep="/"))
    assert not left
    names = [layout.canonical(name) for name in golden[f"{prefix}grad_names"]]
    assert {name for name, x in found.items() if np.any(x)} >= {*names}
    for name, norm in zip(names, golden[f"{prefix}grad_norms"], strict=True):
        # The gradients of key biases are nothing but rounding.
        np.testing.assert_allclose(
            np.linalg.norm(np.float64(found[name])), norm, rtol=1e-3, atol=1e-6, err_msg=name
        )
    for entry, whole in golden.items():
        if entry.startswith(f"{prefix}grad/"):
            error = np.abs(found[layout.canonical(entry[len(prefix) + 5 :])] - whole).max()
            assert error < 1e-3 * np.linalg.norm(whole), entry


def base_clip(spec: DualEncoderSpec, folder: Path) -> Path:
    """A model folder of a random CLIP of these sizes, with the vocabulary of moving shapes."""
    spec = dataclasses.replace(spec, text=dataclasses.replace(spec.text, vocab=len(VOCABULARY)))
    write_tokenizer(folder / "words")
    random_checkpoint(spec, folder / "clip.safetensors", "openai")
    arguments = (folder / "clip.safetensors", folder / "clip", "openai", {}, f"{folder}/words")
    convert(*arguments)
    return folder / "clip"
