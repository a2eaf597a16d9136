"""`vlt export --workdir=DIR OUT`: a run's model, to be deployed."""

import argparse
import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from flax import traverse_util
from jax import export as jax_export

from vlt.command_line import why
from vlt.command_line.export import parse
from vlt.configuration import load_saved
from vlt.convert.errors import ConversionError
from vlt.convert.layouts.families import get_family
from vlt.convert.plain import write_plain
from vlt.convert.reverse import HUGGINGFACE_FOLDER
from vlt.convert.tables.table import source_name
from vlt.methods import build_methods
from vlt.model_io.build import example_inputs
from vlt.model_io.folder import (
    MODEL_FOLDER,
    SAFETENSORS,
    Kind,
    ModelFolderError,
    check_replaceable,
    new_folder,
    write_model_folder,
)
from vlt.model_io.loading import LoadedModel, build_described
from vlt.models.points import Method
from vlt.models.spec import JOINT_KINDS, Spec
from vlt.storage.files import new_file
from vlt.storage.trees import CheckpointError
from vlt.training.averaging import blended
from vlt.training.card import model_card
from vlt.training.trained import trained_model

# What each format writes.
FORMATS = {
    "orbax": MODEL_FOLDER,
    "safetensors": SAFETENSORS,
    "stablehlo": Kind(
        "an exported program",
        lambda folder: (folder / "video.stablehlo").is_file(),
        re.compile(r"(video|text)\.stablehlo"),
    ),
    "huggingface": HUGGINGFACE_FOLDER,
}


def merged_model(model: LoadedModel) -> LoadedModel:
    """The same function of videos and texts, with methods folded by `Method.fold_for_inference`."""
    params, kept = model.params, {}
    for (name, options), method in zip(
        model.config.methods.items(), model.module.methods, strict=True
    ):
        left, params = method.fold_for_inference(params)
        if left is not None:
            kept[name] = options if left is method else _options(left)
    gone = _paths(model.params) - _paths(params)
    source = _source_without(model.config.source, model.config.spec, gone)
    config = dataclasses.replace(model.config, methods=kept, source=source)
    module = model.module.clone(methods=build_methods(kept))
    return LoadedModel(module, params, config, model.tokenizer)


def _options(method: Method) -> dict[str, Any]:
    """A method's options that are not at their defaults."""
    values = {field: getattr(method, field.name) for field in dataclasses.fields(method)}
    return {field.name: value for field, value in values.items() if value != field.default}


def _paths(params: dict[str, Any]) -> set[str]:
    return set(traverse_util.flatten_dict(params, sep="/"))


def _source_without(source: dict[str, Any], spec: Spec, gone: set[str]) -> dict[str, Any]:
    """The record of published tensors without those whose leaves are gone."""
    if not gone or "layout" not in source:
        return source
    family = get_family(source["layout"]).for_spec(spec)
    names = {source_name(family.rules, path) for path in gone}
    dtypes = source.get("dtypes", {})
    kept = {n: dtype for n, dtype in dtypes.items() if family.canonical(n) not in names}
    return source | {"dtypes": kept}


def export(
    workdir: Path,
    target: Path,
    form: str,
    overwrite: bool = False,
    merged: bool = False,
    average: tuple[int, int] | None = None,
    blend: tuple[str, float] | None = None,
) -> None:
    """Writes a run's model; with `merged`, its methods are folded as far as possible.

    average: first and last step of the checkpoints to average. blend: another model's folder and
    its share of the weights.

    Raises:
        ModelFolderError: the target exists, and `overwrite` is off or it may not be replaced.
        WriteError: the target is a link, or cannot be written.
        CheckpointError, ModelFolderError, ValueError: there is nothing to average or blend.
        ValueError: the form is stablehlo, and the model does not embed videos and texts.
        ConversionError: the form is huggingface, and transformers has no such model.
    """
    check_replaceable(target, overwrite, FORMATS[form])
    if form == "stablehlo":
        _check_kind(workdir)
    model = trained_model(workdir, average)
    report = f"from {workdir.name}\n"
    if average is not None:
        report += f"mean of the checkpoints of steps {average[0]} to {average[1]}\n"
    if merged:
        names = ", ".join(model.config.methods)
        model = merged_model(model)
        report += f"merged: {names}; left: {', '.join(model.config.methods) or 'none'}\n"
    if blend is not None:
        model = blended(model, *blend)
        report += f"blended: {blend[1]} of {Path(blend[0]).name}\n"
    if form == "orbax":
        write_model_folder(target, model.config, model.params, model.tokenizer, report, overwrite)
    elif form == "safetensors":
        _write_safetensors(model, target)
    elif form == "huggingface":
        card = model_card(workdir, target.name, model.config, report, average or blend)
        write_plain(target, model.config, model.params, model.tokenizer, card, overwrite)
    else:
        with new_folder(target, overwrite, FORMATS[form]) as folder:
            _write_stablehlo(model, folder)


def _write_safetensors(model: LoadedModel, target: Path) -> None:
    """Writes leaves under our paths, with config.json's content as metadata."""
    leaves = traverse_util.flatten_dict(model.params, sep="/")
    arrays = {path: np.ascontiguousarray(leaf) for path, leaf in leaves.items()}
    metadata = {"format": "np", "vlt": json.dumps(model.config.to_dict())}
    with new_file(target) as unfinished:
        safetensors.numpy.save_file(arrays, unfinished, metadata=metadata)


def _check_kind(workdir: Path) -> None:
    """Raises ValueError for a run of a kind that has no program for texts; reads no weights."""
    _, _, described = build_described(load_saved(workdir).model)
    kind = described.spec.kind
    if kind not in JOINT_KINDS:
        raise ValueError(
            f"{workdir}: --format=stablehlo writes a program for videos and one for texts, of "
            f"kinds {' and '.join(JOINT_KINDS)} alone; this run's model is of kind {kind}: export "
            "it with --format=orbax or safetensors"
        )


def _write_stablehlo(model: LoadedModel, folder: Path) -> None:
    """Writes video.stablehlo and text.stablehlo: (inputs) -> unit vectors, for any batch size.

    Raises:
        ValueError: a model whose videos have no vector apart from texts.
    """
    if model.module.scores_pairs:
        names = ", ".join(method.name for method in model.module.methods if method.scores_pairs)
        raise ValueError(
            f"{names} reads videos and texts together, and these programs make vectors of one "
            "alone; export with --format=orbax and score with vlt.load"
        )
    frames = model.config.frames or 8
    video, ids = example_inputs(model.module.spec, frames, model.module.longest_text)
    (batch,) = jax_export.symbolic_shape("b")
    module = model.module.clone(attention="plain")  # one program for every platform
    for name, shape in (("video", video), ("text", ids)):

        def encode(x: jax.Array, method: str = f"encode_{name}") -> jax.Array:
            return module.apply({"params": model.params}, x, method=method)[0]

        inputs = jax.ShapeDtypeStruct((batch, *shape.shape[1:]), shape.dtype)
        exported = jax_export.export(jax.jit(encode), platforms=("cpu", "cuda", "tpu"))(inputs)
        (folder / f"{name}.stablehlo").write_bytes(exported.serialize())


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns 0 when all went well."""
    return run(parse("python -m vlt.export", arguments))


def run(options: argparse.Namespace) -> int:
    """Runs the command with parsed arguments."""
    try:
        export(
            options.workdir,
            options.target,
            options.format,
            options.overwrite,
            options.merge,
            options.average,
            options.blend,
        )
    except (CheckpointError, ConversionError, ModelFolderError, ValueError, OSError) as error:
        print(f"error: {why(error)}", file=sys.stderr)
        return 1
    print(f"{options.target}: {options.format} of {options.workdir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
