"""Converts a model folder back to its published layout."""

import functools
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from flax import traverse_util

from vlt.convert.chat.reverse import ChatWriter
from vlt.convert.errors import ConversionError
from vlt.convert.files.arrays import Tensors, dtype_named
from vlt.convert.files.npz_files import is_npz, write_npz
from vlt.convert.files.reading import TORCH_SUFFIXES, read_json
from vlt.convert.layouts.chat import LLAMA
from vlt.convert.layouts.families import get_family
from vlt.convert.layouts.huggingface import clip_json
from vlt.convert.layouts.huggingface_blip import blip_json
from vlt.convert.layouts.huggingface_videoprism import encoder_json, videoprism_json
from vlt.convert.layouts.methods import untold_methods
from vlt.convert.layouts.siglip import SIGLIP_HF, siglip_json
from vlt.convert.layouts.videoprism import (
    VIDEOPRISM_ENCODER_HF,
    VIDEOPRISM_HF,
)
from vlt.convert.layouts.xclip import XCLIP_HF, xclip_json
from vlt.convert.preprocessing import preprocessor_json
from vlt.convert.tables.family import Family
from vlt.convert.tables.sizes import heads_at
from vlt.convert.tables.stacked import stack
from vlt.convert.tables.table import to_tensors
from vlt.convert.tables.tied import renamed, tie
from vlt.convert.tokenizer import copy_words
from vlt.data.manifests.resources import resolve
from vlt.data.text.tokenize import TOKENIZER_NAMES
from vlt.methods import build_methods
from vlt.model_io.folder import (
    SAFETENSORS,
    Kind,
    ModelConfig,
    check_replaceable,
    new_folder,
    read_model_config,
    read_model_folder,
)
from vlt.models.leaf_names import SCALE
from vlt.models.spec import BlipSpec, ChatSpec, DualEncoderSpec
from vlt.storage.files import new_file

_FOLDERS = ("clip_hf", "siglip_hf", "videoprism_hf", "videoprism_encoder_hf", "xclip_hf", "blip_hf")
_FILES = (".safetensors", ".npz")
_NPZ = Kind("a file of numpy's arrays", is_npz)


def reverse(
    source: str | Path,
    target: str | Path,
    family: str | None = None,
    overwrite: bool = False,
    part: str | None = None,
) -> str:
    """Writes a model folder's weights under their published names and dtypes; returns a report.

    target: a .safetensors file, or a .npz where the layout is published as one; for layouts
    clip_hf, siglip_hf, videoprism_hf, videoprism_encoder_hf, xclip_hf, blip_hf and llama also a new
    folder that transformers can load. family: another layout than the one the model came from.
    part: the part of a chat model to write: llm, vision, connector or branch; by default all of it.

    Raises:
        ConversionError: no known layout, or leaves without a place in it (all are listed).
        ModelFolderError: the source is not a complete model folder, or the target exists and may
            not be replaced.
        WriteError: the target is a link, or cannot be written.
    """
    source, target = resolve(str(source)), Path(target)
    _check_target(target, overwrite)
    config = read_model_config(source)
    if isinstance(config.spec, ChatSpec):
        return _reverse_chat(ChatWriter(source, config, family, part), target, overwrite)
    if part:
        raise ConversionError(f"--part={part}: {source} is not a chat model and has no parts")
    config, params = read_model_folder(source)
    layout = _layout(source, config, family)
    leaves = dict(traverse_util.flatten_dict(params, sep="/"))
    return write_published(target, layout, config, leaves, source / "tokenizer", overwrite)


def write_published(
    target: Path,
    layout: Family,
    config: ModelConfig,
    leaves: Tensors,
    tokenizer: Path,
    overwrite: bool,
    more: Mapping[str, str] | None = None,
    check: Callable[[Path], None] = lambda folder: None,
) -> str:
    """As `reverse`, for a model in memory. tokenizer: a folder, read if the target is a folder.

    more: further files for a folder, {name: text}. check: called on the finished folder; if it
    raises, the folder is not written.
    """
    _check_target(target, overwrite)
    as_folder = is_folder(target)
    if as_folder and layout.name not in _FOLDERS:
        suffix = ".npz" if layout.root else ".safetensors"
        raise ConversionError(f"{target}: layout {layout.name} is one file; name a {suffix}")
    if not as_folder and bool(layout.root) != (target.suffix == ".npz"):
        known = "a .npz" if layout.root else "no .npz"
        raise ConversionError(f"{target}: layout {layout.name} is published as {known}")
    _check_options(layout, config)
    recorded = config.source if config.source.get("layout") == layout.name else {}
    heads = functools.partial(heads_at, config.spec)
    tensors, notes = _published(layout, leaves, recorded.get("dtypes", {}), heads)
    second: dict[str, str] = {}
    if not recorded:
        doubled = ((renamed(layout.doubled, name), name) for name in tensors)
        second = {other: name for other, name in doubled if other} | layout.ties(tensors)
    tensors = tie(tensors, recorded.get("aliases", second))
    if as_folder:
        with new_folder(target, overwrite, HUGGINGFACE_FOLDER) as folder:
            _write_huggingface(folder, tokenizer, _config_json(layout, config), config, tensors)
            for name, text in (more or {}).items():
                (folder / name).write_text(text, encoding="utf-8")
            check(folder)
    elif layout.root:
        if recorded.get("stacked", not recorded):
            tensors = stack(layout.stacked, tensors)
        with new_file(target) as unfinished:
            write_npz(unfinished, tensors, layout.root)
    else:
        with new_file(target) as unfinished:
            safetensors.numpy.save_file(tensors, unfinished, metadata={"format": "pt"})
    gone = [*recorded.get("dropped", []), *recorded.get("left_out", [])]
    notes += [f"dropped, not written: {name}" for name in gone]
    notes += untold_methods(config, layout)
    notes += [f"taken off the names, not written: {x}" for x in recorded.get("taken_off", [])]
    return "\n".join([f"{target}: {len(tensors)} tensors, layout {layout.name}", *notes]) + "\n"


def is_folder(target: Path) -> bool:
    """Whether a target is to be written as a folder, not as a file."""
    return target.suffix not in _FILES


def _check_target(target: Path, overwrite: bool) -> None:
    if target.suffix in TORCH_SUFFIXES:
        raise ConversionError(f"{target}: torch's files are read, not written; .safetensors is")
    kind = _NPZ if target.suffix == ".npz" else SAFETENSORS
    kind = HUGGINGFACE_FOLDER if is_folder(target) else kind
    check_replaceable(target, overwrite, kind)


def _reverse_chat(writer: ChatWriter, target: Path, overwrite: bool) -> str:
    name = writer.layout.name
    if target.suffix == ".safetensors":
        with new_file(target) as unfinished:
            writer.write_file(unfinished)
    elif name != LLAMA.name:
        raise ConversionError(
            f"{target}: of a chat model, a folder is written of --part=llm alone; name a "
            ".safetensors"
        )
    else:
        with new_folder(target, overwrite, HUGGINGFACE_FOLDER) as folder:
            writer.write_folder(folder)
    first = f"{target}: {len(writer.tensors)} tensors, layout {name}"
    return "\n".join([first, *writer.notes]) + "\n"


def _layout(source: Path, config: ModelConfig, family: str | None) -> Family:
    name = family or config.source.get("layout")
    if name is None:
        raise ConversionError(f"{source}: was not converted; --family says which layout to write")
    return get_family(name).for_spec(config.spec)


def _check_options(family: Family, config: ModelConfig) -> None:
    for name, fixed in family.options.items():
        for method in build_methods({n: o for n, o in config.methods.items() if n == name}):
            for key, value in fixed.items():
                if getattr(method, key) != value:
                    folds = f"; python -m vlt.export --merge folds {name} into the weights"
                    raise ConversionError(
                        f"{name}.{key} is {getattr(method, key)}, layout {family.name} fixes it at "
                        f"{value}{folds if method.mergeable else ''}"
                    )


def _published(
    family: Family, leaves: Tensors, dtypes: Mapping[str, str], heads: Callable[[str], int]
) -> tuple[Tensors, list[str]]:
    """Contiguous tensors by published name, in the dtypes they came in; and notes."""
    for path, value in family.constants.items():
        placed = any(path in rule.targets and rule.source in dtypes for rule in family.rules)
        if path in leaves and not placed and leaves.pop(path) != np.float32(value):
            raise ConversionError(f"{path}: layout {family.name} fixes it at {value:.6f}")
    leaves = {path: np.zeros_like(leaves[like]) for path, like in family.zeros.items()} | leaves
    tensors, left = to_tensors(family.rules, leaves, heads)
    spare = {*family.starts, *([SCALE] if family.fixed_scale else [])}
    notes = [f"no place for {path}, not written" for path in left if path in spare]
    left = [path for path in left if path not in spare]
    if left:
        lines = [f"no place in layout {family.name} (--family chooses another):", *left]
        raise ConversionError("\n  ".join(lines))
    originals = {family.canonical(name): name for name in dtypes}
    absent = sorted(set(originals) - set(tensors))
    if absent:
        raise ConversionError("\n  ".join(["the model no longer has:", *absent]))
    published: Tensors = {}
    for spelled, tensor in tensors.items():
        if dtypes and spelled not in originals:
            notes.append(f"not in the source file, not written: {spelled}")
            continue
        name = originals.get(spelled, spelled)
        published[name] = _cast(name, tensor, dtypes.get(name, "float32"), notes)
    return published, notes


def _cast(name: str, tensor: np.ndarray, dtype: str, notes: list[str]) -> np.ndarray:
    result = np.ascontiguousarray(tensor, dtype_named(dtype)).reshape(tensor.shape)
    if not np.array_equal(result.astype(np.float32), tensor, equal_nan=True):
        notes.append(f"rounded to {dtype}: {name}")
    return result


def _is_huggingface_folder(folder: Path) -> bool:
    path = folder / "config.json"
    files = ("model.safetensors", "model.safetensors.index.json")
    whole = path.is_file() and any((folder / name).is_file() for name in files)
    return whole and "model_type" in read_json(path)


HUGGINGFACE_FOLDER = Kind(
    "a folder of a published layout",
    _is_huggingface_folder,
    re.compile(
        r"README\.md|(preprocessor_)?config\.json|model(-\d+-of-\d+)?\.safetensors(\.index\.json)?|"
        f"{TOKENIZER_NAMES}"
    ),
)


def _config_json(layout: Family, config: ModelConfig) -> dict[str, Any]:
    spec = config.spec
    if layout.name == XCLIP_HF.name:
        return xclip_json(config)
    if layout.name == SIGLIP_HF.name:
        assert isinstance(spec, DualEncoderSpec)
        return siglip_json(spec)
    if layout.name == VIDEOPRISM_ENCODER_HF.name:
        return encoder_json(spec.visual)
    if layout.name == VIDEOPRISM_HF.name:
        assert isinstance(spec, DualEncoderSpec)
        return videoprism_json(spec)
    if isinstance(spec, DualEncoderSpec):
        return clip_json(spec)
    assert isinstance(spec, BlipSpec)
    return blip_json(spec)


def _write_huggingface(
    folder: Path, tokenizer: Path, fields: dict[str, Any], config: ModelConfig, tensors: Tensors
) -> None:
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    squared = {"siglip": "SiglipImageProcessor", "blip": "BlipImageProcessor"}.get(
        fields["model_type"], "CLIPImageProcessor"
    )
    for name, content in (
        ("config.json", fields),
        ("preprocessor_config.json", preprocessor_json(config.preprocessing, squared)),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    copy_words(tokenizer, folder)
