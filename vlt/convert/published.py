"""Converts a published checkpoint to a model folder."""

import dataclasses
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from vlt.convert.chat.folder import Given, convert_chat
from vlt.convert.errors import ConversionError
from vlt.convert.files.arrays import Tensors
from vlt.convert.files.reading import Checkpoint, read_checkpoint
from vlt.convert.layouts.btadapter import refuse_enormous
from vlt.convert.layouts.chat import LLAMA
from vlt.convert.layouts.huggingface import clip_spec
from vlt.convert.layouts.huggingface_blip import ORIGINAL, blip_spec, stated_kind
from vlt.convert.layouts.huggingface_videoprism import encoder_spec, videoprism_spec
from vlt.convert.layouts.kinds import choose_kind, remade
from vlt.convert.layouts.llama import is_meta
from vlt.convert.layouts.methods import infer_methods, trained_frames
from vlt.convert.layouts.pe import refuse_unpooled
from vlt.convert.layouts.prefixes import told_family
from vlt.convert.layouts.siglip import SIGLIP_HF, siglip_spec
from vlt.convert.layouts.umt import refuse_classifier
from vlt.convert.layouts.videoprism import (
    VIDEOPRISM_ENCODER_HF,
    VIDEOPRISM_HF,
    refuse_giant,
)
from vlt.convert.layouts.xclip import XCLIP_HF, xclip_spec
from vlt.convert.nonfinite import check_finite
from vlt.convert.preprocessing import default_preprocessing, preprocessing, with_settings
from vlt.convert.report import compact_table, full_table, heading, summary
from vlt.convert.tables.family import Family
from vlt.convert.tables.resize import RESIZED, resize
from vlt.convert.tables.sizes import check_sizes, count_stages, infer_spec, told_heads
from vlt.convert.tables.stacked import unstack
from vlt.convert.tables.table import Placed, source_name, to_leaves
from vlt.convert.tables.tied import untie
from vlt.convert.tokenizer import has_tokenizer, with_its_ids, write_tokenizer
from vlt.model_io.folder import (
    MODEL_FOLDER,
    ModelConfig,
    check_replaceable,
    model_shapes,
    read_model_config,
    read_model_folder,
    write_model_folder,
)
from vlt.model_io.view import View
from vlt.models.leaf_names import SCALE
from vlt.models.spec import ChatSpec, DualEncoderSpec, EncoderSpec, Spec

Settings = Mapping[str, Any]

# Readers of config.json by layout; other dual encoders use CLIP's.
_CONFIGS: dict[str, Callable[[Path], Spec]] = {
    VIDEOPRISM_ENCODER_HF.name: encoder_spec,
    XCLIP_HF.name: xclip_spec,
    SIGLIP_HF.name: siglip_spec,
    VIDEOPRISM_HF.name: videoprism_spec,
}


def convert(
    source: str | Path,
    target: str | Path,
    family: str | None = None,
    settings: Settings | None = None,
    tokenizer: str | None = None,
    overwrite: bool = False,
    key: str | None = None,
    allow_nonfinite: bool = False,
) -> str:
    """Converts a published checkpoint to a model folder and returns the compact report.

    settings: as `parse_settings` returns them. tokenizer: a folder, a file of merges or words, or a
    hub name; needed where the source has none. key: the entry of the file that has the tensors, if
    not the usual one (an average of the weights, say); dots go into nested entries.
    allow_nonfinite: whether NaN and infinite values are converted and reported.

    Raises:
        ConversionError: the source is unreadable, unsafe or of no known family; tensors are
            missing, unexpected, of a wrong shape (all are listed) or not finite; something that
            tensors can't tell is not set.
        ModelFolderError: the target exists, or `settings['base']` is no model folder.
    """
    settings = settings or {}
    if Path(source).exists() and Path(target).exists() and Path(source).samefile(target):
        raise ConversionError(f"{source}: is the source and the target; name another target")
    check_replaceable(Path(target), overwrite, MODEL_FOLDER)
    checkpoint = None if is_meta(Path(source)) else read_checkpoint(Path(source), key)
    if checkpoint:
        refuse_classifier(checkpoint.tensors, checkpoint.path)
        refuse_unpooled(checkpoint.tensors, checkpoint.path)
        refuse_giant(checkpoint.tensors, checkpoint.path)
        refuse_enormous(checkpoint.tensors, checkpoint.path)
    layout = told_family(checkpoint, family) if checkpoint else LLAMA
    if checkpoint is None or layout.kind == ChatSpec.kind:
        given = Given(source=Path(source), family=family)
        return convert_chat(
            given, Path(target), settings, tokenizer, overwrite, key, allow_nonfinite
        )
    layout = _of_kind(checkpoint, layout, settings)
    if tokenizer and layout.kind == EncoderSpec.kind:
        raise ConversionError(f"--tokenizer {tokenizer}: layout {layout.name} reads no text")
    tokenizer = tokenizer or _own_tokenizer(checkpoint, layout, settings)
    config, leaves, placed, notes = _convert(checkpoint, layout, settings, allow_nonfinite)
    config, leaves = resize(config, leaves, settings, notes)
    config = dataclasses.replace(config, view=_view(config, layout))
    head = heading(checkpoint.path, config, placed, checkpoint.other, notes)
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "tokenizer"
        assert not isinstance(config.spec, ChatSpec)
        if not isinstance(config.spec, EncoderSpec):
            write_tokenizer(tokenizer, files, config.spec.text)
            config = dataclasses.replace(config, spec=with_its_ids(config.spec, files))
        params = traverse_util.unflatten_dict(leaves, sep="/")
        report = f"{head}\n\n{full_table(placed.rows)}\n"
        write_model_folder(target, config, params, files, report, overwrite)
    return f"{head}\n\n{compact_table(placed.rows)}\n"


def _of_kind(checkpoint: Checkpoint, family: Family, settings: Settings) -> Family:
    """The layout for the checkpoint's kind of model, or for its base's if it needs one."""
    for key in ("masked_words",):
        if key in settings and key not in family.optional:
            raise ConversionError(f"--set {key}: layout {family.name} has no such head")
    spare = [pattern for key, pattern in family.optional.items() if not settings.get(key)]
    family = dataclasses.replace(family, left_out="|".join([family.left_out, *spare]))
    if _is_alone(checkpoint, family) and family.kinds:
        if "base" not in settings:
            raise ConversionError(f"{checkpoint.path}: holds {family.alone}")
        return family.for_kind(read_model_config(settings["base"]).spec.kind)
    kind = settings.get("kind") or stated_kind(checkpoint.config or {})
    remade(family, checkpoint, kind)
    names = [*checkpoint.tensors, *checkpoint.other]
    return choose_kind(family, names, kind, checkpoint.path)


def _is_alone(checkpoint: Checkpoint, family: Family) -> bool:
    """Whether the checkpoint holds only tensors that another folder must complete."""
    pattern = family.adapter
    names = map(family.canonical, checkpoint.tensors)
    return pattern is not None and all(re.fullmatch(pattern, name) for name in names)


def _own_tokenizer(checkpoint: Checkpoint, family: Family, settings: Settings) -> str:
    if family.kind == EncoderSpec.kind:
        return ""
    if checkpoint.folder is not None and has_tokenizer(checkpoint.folder):
        return str(checkpoint.folder)
    if "base" in settings:
        return str(Path(settings["base"]) / "tokenizer")
    file, name = ("BERT's words (vocab.txt)", "bert-base-uncased")
    if family.model == "siglip":
        file = "SentencePiece (of SigLIP 2 Gemma's tokenizer.model, else spiece.model)"
        name = "google/siglip2-base-patch16-224"
    elif family.kind == "dual_encoder":
        file = "CLIP's merges (bpe_simple_vocab_16e6.txt.gz)"
        name = "openai/clip-vit-base-patch32"
    raise ConversionError(
        f"{checkpoint.path}: holds no tokenizer; --tokenizer FOLDER, a file of {file} or a hub "
        f"name ({name})"
    )


def _convert(
    checkpoint: Checkpoint, family: Family, settings: Settings, allow_nonfinite: bool
) -> tuple[ModelConfig, Tensors, Placed, list[str]]:
    """Config and float32 leaves of a checkpoint, where its tensors went, and notes."""
    tensors, aliases = untie(family, checkpoint.tensors, checkpoint.path)
    tensors, stacked = unstack(family.stacked or "(?!)", tensors, checkpoint.path)
    family = family.of_stages(count_stages(family.stages, map(family.canonical, tensors)))
    placed = to_leaves(family.rules, tensors, family.canonical, family.dropped, family.left_out)
    _leave_out(family, placed)
    if not placed.rows:
        some = ", ".join([*tensors][:5])
        raise ConversionError(f"{checkpoint.path}: layout {family.name} has no names like {some}")
    notes = checkpoint.notes + [f"taken off the names: {x}" for x in checkpoint.taken_off]
    notes += [f"layers taken apart: {len(stacked)} tensors hold all of a tower"] if stacked else []
    notes += [f"the same as {first}, kept once: {second}" for second, first in aliases.items()]
    base, stored = _base(checkpoint, family, settings, notes)
    leaves = stored | placed.leaves
    if SCALE in settings:
        leaves[SCALE] = _scale_to_train(family, settings[SCALE], notes)
    for path, value in (family.constants | family.starts).items():
        if path not in leaves:
            leaves[path] = np.array(value, np.float32)
            why = (
                "fixed by the published code" if path in family.constants else "training starts so"
            )
            notes.append(f"{path}: {value:.6f}, {why}, not in the file")
    if base:
        spec, pixels = base.spec, base.preprocessing
    else:
        spec = _spec(checkpoint, family, placed, leaves, settings, notes)
        pixels = _preprocessing(checkpoint, family, spec, settings, notes)
    fits, about = infer_methods(leaves, spec.visual.patch_size, settings)
    notes += about
    fits = {n: {**family.methods.get(n, {}), **fits.get(n, {})} for n in [*fits, *family.methods]}
    methods = {n: (base.methods if base else {}).get(n, {}) | fit for n, fit in fits.items()}
    frames = trained_frames(leaves) or (base.frames if base else None)
    _check(checkpoint, family, placed, leaves, _shapes(checkpoint, spec, methods, frames))
    read = {row.source: tensors[row.source] for row in placed.rows}
    kept = sorted(stored.keys() - placed.leaves.keys())
    read |= {f"{path} of {settings['base']}": stored[path] for path in kept}
    notes += check_finite(checkpoint.path, read, allow_nonfinite)
    leaves = {path: _float32(checkpoint, path, leaf) for path, leaf in leaves.items()}
    source = _source(checkpoint, family, placed) | {"aliases": aliases}
    if stacked:
        source["stacked"] = True
    if base:
        source["base"] = Path(settings["base"]).name
    config = ModelConfig(family.model, spec, methods, pixels, frames, family.frame_norm, source)
    return config, leaves, placed, notes


def _scale_to_train(family: Family, scale: float, notes: list[str]) -> np.ndarray:
    if not family.fixed_scale:
        raise ConversionError(f"--set {SCALE}={scale}: layout {family.name} has its own")
    notes.append(f"{SCALE}: that of {scale}, set, a leaf to be trained")
    return np.array(np.log(scale), np.float32)


def _leave_out(family: Family, placed: Placed) -> None:
    """Leaves out the leaves that others supersede."""
    for path, others in family.superseded.items():
        if path in placed.leaves and any(re.fullmatch(others, leaf) for leaf in placed.leaves):
            row = next(row for row in placed.rows if path in row.targets)
            placed.rows.remove(row)
            placed.left_out.append(row.source)
            del placed.leaves[path]


def _view(config: ModelConfig, family: Family) -> View:
    """The view that the family is evaluated on, with as many frames as the model is for."""
    frames = config.frames or config.spec.visual.temporal_frames or family.view.frames
    return dataclasses.replace(family.view, frames=frames)


def _source(checkpoint: Checkpoint, family: Family, placed: Placed) -> dict[str, Any]:
    """What `reverse` needs to know about the published checkpoint."""
    source = {
        "layout": family.name,
        "file": checkpoint.path.name,
        "dtypes": {row.source: row.dtype for row in placed.rows},
        "dropped": placed.dropped,
        "left_out": summary(placed.left_out, [row.source for row in placed.rows]),
    }
    return source | ({"taken_off": checkpoint.taken_off} if checkpoint.taken_off else {})


def _base(
    checkpoint: Checkpoint, family: Family, settings: Settings, notes: list[str]
) -> tuple[ModelConfig | None, Tensors]:
    """Config and leaves of the model folder that completes a file of adapter tensors alone."""
    if not _is_alone(checkpoint, family):
        if "base" in settings:
            raise ConversionError(f"{checkpoint.path}: holds a whole model; leave out --set base")
        return None, {}
    if "base" not in settings:
        raise ConversionError(f"{checkpoint.path}: holds {family.alone}")
    idle = sorted(set(settings) - {"base"})
    if idle:
        raise ConversionError(f"--set {idle[0]}: {settings['base']}/config.json says it")
    config, params = read_model_folder(settings["base"])
    notes.append(f"tensors that the file leaves out: from {settings['base']}")
    leaves = traverse_util.flatten_dict(params, sep="/")
    return config, {path: x for path, x in leaves.items() if re.fullmatch(family.completed, path)}


def _spec(
    checkpoint: Checkpoint,
    family: Family,
    placed: Placed,
    leaves: Tensors,
    settings: Settings,
    notes: list[str],
) -> Spec:
    if family.kind == "dual_encoder" and "text.dropout" in settings:
        raise ConversionError("--set text.dropout: a CLIP has none")
    spec: Spec
    if checkpoint.config is None:
        spec, about = infer_spec(leaves, family, settings, told_heads(placed.rows))
        notes += about
        return _with_scale(spec, family, leaves)
    free = {*RESIZED, *(ORIGINAL if family.model == "blip" else ())}
    stated = sorted(key for key in settings if key.startswith(("visual.", "text.")))
    stated = [key for key in stated if key not in free]
    if stated:
        raise ConversionError(f"--set {stated[0]}: {checkpoint.path}/config.json says it")
    notes.append("heads, activation, epsilon: config.json")
    if family.name in _CONFIGS or family.kind == "dual_encoder":
        spec = _CONFIGS.get(family.name, clip_spec)(checkpoint.path)
    else:
        spec, about = blip_spec(checkpoint.path, family.kind, settings)
        notes += about
    check_sizes(checkpoint.path / "config.json", spec, leaves)
    return _with_scale(spec, family, leaves)


def _with_scale(spec: Spec, family: Family, leaves: Tensors) -> Spec:
    """The spec, with the layout's fixed scale of cosines where no leaf gives one."""
    if not isinstance(spec, DualEncoderSpec) or SCALE in leaves:
        return spec
    return dataclasses.replace(spec, fixed_scale=family.fixed_scale)


def _preprocessing(
    checkpoint: Checkpoint, family: Family, spec: Spec, settings: Settings, notes: list[str]
) -> dict[str, Any]:
    transformers = family.name.endswith("_hf") and checkpoint.folder is not None
    if family.pixels and not transformers:
        entry, where = default_preprocessing(spec) | family.pixels, f"as in {family.name}"
    else:
        entry, where = preprocessing(checkpoint.folder, spec, family.pixels)
    return with_settings(entry, where, settings, notes)


def _shapes(
    checkpoint: Checkpoint,
    spec: Spec,
    methods: Mapping[str, dict[str, Any]],
    frames: int | None,
) -> dict[str, tuple[int, ...]]:
    """{path: shape} of the model's leaves."""
    try:
        tree = model_shapes(spec, methods, frames)
    except ValueError as error:
        raise ConversionError(f"{checkpoint.path}: {error}") from error
    return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(tree, sep="/").items()}


def _check(
    checkpoint: Checkpoint,
    family: Family,
    placed: Placed,
    leaves: Tensors,
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    """Raises ConversionError, listing every tensor missing, unexpected or of a wrong shape."""
    unexpected, wrong_shape = dict(placed.unexpected), dict(placed.wrong_shape)
    for path, leaf in leaves.items():
        if path not in shapes:
            unexpected[source_name(family.rules, path)] = f"the model has no {path}"
        elif leaf.shape != shapes[path]:
            why = f"{path} is {list(leaf.shape)}, wanted {list(shapes[path])}"
            wrong_shape[source_name(family.rules, path)] = why
    bad = {family.canonical(name) for name in placed.wrong_shape}
    missing = {
        name: f"for {path}"
        for path in shapes
        if path not in leaves and (name := source_name(family.rules, path)) not in bad
    }
    if missing or unexpected or wrong_shape:
        lines = [f"{checkpoint.path}: does not fit the layout {family.name}"]
        for what, entries in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("wrong_shape", wrong_shape),
        ):
            lines += [f"  {what}: {name} ({why})" for name, why in entries.items()]
        raise ConversionError("\n".join(lines))


def _float32(checkpoint: Checkpoint, path: str, leaf: np.ndarray) -> np.ndarray:
    """A float32 copy that keeps every value."""
    real = leaf.dtype.kind != "c"
    with np.errstate(over="ignore"):  # the comparison below catches it
        result = np.asarray(leaf, np.float32, order="C") if real else leaf
    if not real or not np.array_equal(result.astype(leaf.dtype), leaf, equal_nan=True):
        raise ConversionError(f"{checkpoint.path}: {path}: float32 can't hold its {leaf.dtype}")
    return result
