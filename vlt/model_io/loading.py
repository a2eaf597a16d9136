"""A model with its parameters, from a config: what is loaded, what is new, and nothing else."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from flax import traverse_util

from vlt.data.manifests.resources import resolve
from vlt.methods import build_methods
from vlt.model_io.build import abstract_params, build_model, init_params, method_options
from vlt.model_io.folder import (
    ModelConfig,
    ModelFolderError,
    model_shapes,
    read_model_config,
    read_model_folder,
)
from vlt.model_io.needs import check_memory
from vlt.model_io.parts import part_methods, read_parts, under
from vlt.models.interpolation import resize_temporal
from vlt.models.narrow import narrowed
from vlt.models.sizes import SIZES
from vlt.models.spec import ChatSpec, Spec, with_visual
from vlt.models.spec_reading import with_video
from vlt.models.video_model import ANY_FRAMES, CLIP_MEAN, CLIP_STD, VideoModel
from vlt.pytrees.fields import near, shown
from vlt.pytrees.paths import by_path
from vlt.storage.trees import load_shapes

# `config.model` for a folder that is used as it is, except for what the folder itself says.
AS_STORED = {
    "size": "",
    "tokenizer": "",
    "methods": (),
    "dtype": "float32",
    "cls_only": True,
    "remat": "none",
    "drop_path": 0.0,
    "weights": "",
    "attention": "auto",
}


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A module, its host parameters, and the rest of what a model folder holds."""

    module: VideoModel
    params: dict[str, Any]
    config: ModelConfig
    tokenizer: Path


def load_model(config: Mapping[str, Any], seed: int) -> LoadedModel:
    """Builds `config.model` and fills its parameters.

    All leaves of the checkpoint's model are loaded, strictly. Leaves of methods that the config
    adds come from `config.parts` (vlt/model_io/parts.py) or are initialised with `seed`, and named
    in the log. Without a checkpoint, all leaves are. A ViCLIP's frame embeddings are interpolated
    if the config has more frames than they are for. `config.weights` says how a language model's
    weights are held.

    Raises:
        ModelFolderError: the checkpoint is absent, half written or another model than the config's.
        ValueError: unknown size, method or option, or less memory than a chat model needs.
    """
    module, folder, stored = build_described(config)
    loaded = {} if folder is None else _read_params(folder, module, config["frames"])
    parts = config.get("parts", ())
    leaves = traverse_util.flatten_dict(loaded, sep="/") | read_parts(parts, module, loaded)
    joint = module.spec.kind == ChatSpec.kind and module.spec.visual.temporal_frames
    if leaves and not (module.methods or parts or joint):
        params = loaded
    else:
        params = _complete(module, leaves, {*stored.methods, *part_methods(parts)}, seed)
        if module.weights:
            leaves = traverse_util.flatten_dict(params, sep="/")
            params = traverse_util.unflatten_dict(narrowed(leaves, module.weights), sep="/")
    methods = method_options(config, stored.methods)
    frames = config["frames"]
    described = dataclasses.replace(
        stored,
        methods=methods,
        frames=frames,
        frame_norm=config["frame_norm"],
        view=dataclasses.replace(stored.view, frames=frames),
    )
    return LoadedModel(module, params, described, tokenizer_folder(config, folder))


def tokenizer_folder(config: Mapping[str, Any], folder: Path | None) -> Path:
    """The folder of tokenizer files for `config.model`, whose checkpoint is `folder`.

    Raises:
        ModelFolderError: the config names none, and there is no checkpoint.
    """
    if config["tokenizer"]:
        return resolve(config["tokenizer"])
    if folder is None:
        raise ModelFolderError(
            "config.model.tokenizer: a folder of tokenizer files is needed without a checkpoint"
        )
    return folder / "tokenizer"


def load_folder(
    path: str,
    frames: int | None = None,
    frame_norm: bool | None = None,
    methods: Iterable[str] | Mapping[str, Mapping[str, Any]] = (),
    dtype: str = "float32",
    weights: str = "",
    parts: Sequence[tuple[str, str]] = (),
) -> LoadedModel:
    """Loads the model of a folder or of a packaged name, as it is or changed.

    frames, frame_norm, methods, dtype, weights, parts: as in a config's `model` section; None takes
    the folder's. Methods are added to the folder's; {name: options} gives options. Leaves of theirs
    that the folder lacks start as in training, and are named in the log.

    Raises:
        ModelFolderError: the folder is absent, half written, not what its config.json says, or for
            another number of frames.
        ValueError: unknown method, option or dtype, or something that does not fit the rest.
    """
    folder = resolve(path)
    stored = read_model_config(folder)
    options = AS_STORED | (dict(methods) if isinstance(methods, Mapping) else {})
    options |= {
        "checkpoint": path,
        "methods": tuple(methods) if isinstance(methods, Mapping) else methods,
        "frames": frames or stored.frames or stored.view.frames or ANY_FRAMES,
        "frame_norm": stored.frame_norm if frame_norm is None else frame_norm,
        "dtype": dtype,
        "weights": weights,
        "parts": tuple(parts),
    }
    loaded = load_model(options, seed=0)
    if loaded.module.methods:
        _tell_new(folder, loaded.params, [part for part, _ in parts])
    if frames or methods:
        return loaded
    config = dataclasses.replace(loaded.config, frames=stored.frames, view=stored.view)
    return dataclasses.replace(loaded, config=config)


def _tell_new(folder: Path, params: dict[str, Any], parts: Sequence[str]) -> None:
    """Warns of leaves that the folder lacks. parts: paths whose leaves came from other folders."""
    stored = by_path(load_shapes(folder / "weights"))
    own = {path for path in by_path(params) if not any(under(path, part) for part in parts)}
    if new := own - stored.keys():
        logging.warning(
            "%s has none of %d leaves, which are as training starts: %s",
            folder,
            len(new),
            ", ".join(sorted({_kind(path) for path in new})),
        )


def build_described(config: Mapping[str, Any]) -> tuple[VideoModel, Path | None, ModelConfig]:
    """The module of `config.model`, the checkpoint's folder and its config; reads no weights.

    Raises:
        ModelFolderError: the folder is absent, half written, or of another size, frame count or
            layers than the config's.
        ValueError: unknown size, method or option, or options that do not fit the rest.
    """
    folder, stored = _describe(config)
    try:
        module = build_model(config, stored.spec, stored.methods, stored.preprocessing)
    except ValueError as error:
        if not stored.methods or not _builds_with(stored.frames, config, stored):
            raise
        raise ValueError(f"{error} ({folder} is for {stored.frames} frames)") from error
    if stored.methods:
        _check_fits(config, stored, module)
    return module, folder, stored


def _builds_with(frames: int | None, config: Mapping[str, Any], stored: ModelConfig) -> bool:
    """Whether nothing but the number of frames is wrong."""
    try:
        changed = dict(config) | {"frames": frames or ANY_FRAMES}
        build_model(changed, stored.spec, stored.methods, stored.preprocessing)
    except ValueError:
        return False
    return frames not in (None, config["frames"])


def build_for_shapes(config: Mapping[str, Any]) -> VideoModel:
    """The module as in `build_described`; `config.size` stands in for an absent checkpoint."""
    absent = config["checkpoint"] and not resolve(config["checkpoint"]).is_dir()
    if absent and config["size"]:
        config = dict(config) | {"checkpoint": ""}
    return build_described(config)[0]


def _describe(config: Mapping[str, Any]) -> tuple[Path | None, ModelConfig]:
    if not config["checkpoint"]:
        spec = as_asked(build_model(config).spec, config)
        pixels = {"image_size": spec.visual.image_size, "mean": CLIP_MEAN, "std": CLIP_STD}
        clip = spec.visual.pre_norm  # CLIP's towers have it, those of BLIP and EVA-CLIP do not
        clip |= spec.kind == "dual_encoder"
        pixels |= {"resize": "bicubic", "crop": "center" if clip else "none"}
        return None, ModelConfig(_family(spec), spec, {}, pixels)
    folder = resolve(config["checkpoint"])
    stored = read_model_config(folder)
    size, spec = config["size"], as_asked(stored.spec, config)
    if size and (size not in SIZES or as_asked(SIZES[size], config) != spec):
        raise ModelFolderError(
            f"{folder} is not of config.model.size={size!r}{_differences(size, spec, config)}; "
            "set the size that fits, or '' to take the checkpoint's"
        )
    return folder, dataclasses.replace(stored, spec=spec)


def _family(spec: Spec) -> str:
    """The layout of a model that came from no checkpoint."""
    if isinstance(spec, ChatSpec):
        queried = "instructblip" if spec.instructed else "minigpt4"
        return "llava" if spec.qformer is None else queried
    if spec.visual.positions == "sinusoid":
        return "umt"
    return "clip" if spec.kind == "dual_encoder" else "blip"


def _differences(size: str, spec: Spec, config: Mapping[str, Any]) -> str:
    """The fields in which a folder's sizes differ from a named size, or the nearest known name."""
    if size not in SIZES:
        return f", which there is not{near(size, SIZES)}"
    both = (as_asked(SIZES[size], config), spec)
    named, own = (traverse_util.flatten_dict(each.to_dict(), sep=".") for each in both)
    told = [
        f"{field} is {shown(own.get(field))}, not {shown(named.get(field))}"
        for field in sorted({*named, *own})
        if named.get(field) != own.get(field)
    ]
    return ": " + ", ".join(told)


def as_asked(spec: Spec, config: Mapping[str, Any]) -> Spec:
    """The spec as the config asks for it: for a chat model with what the config says of a video,
    for a ViCLIP with embeddings of at least the config's frames. A tower with stages interpolates
    them itself."""
    frames = config["frames"]
    spec = with_video(spec, config.get("video", {}), frames)
    if spec.visual.stages or not 0 < spec.visual.temporal_frames < frames:
        return spec
    return with_visual(spec, temporal_frames=frames)


def _read_params(folder: Path, module: VideoModel, frames: int) -> dict[str, Any]:
    """The folder's parameters, with as many frame embeddings as the module has."""

    def narrow(leaves: dict[str, Any]) -> dict[str, Any]:
        _check_finite(folder, leaves)
        return narrowed(leaves, module.weights)

    check_memory(folder, module, frames)
    config, params = read_model_folder(folder, change=narrow if module.weights else None)
    if not module.weights:
        _check_finite(folder, params)
    stored, frames = (spec.visual.temporal_frames for spec in (config.spec, module.spec))
    if stored in (0, frames):
        return params
    logging.warning("%s: embeddings of %d frames interpolated to %d", folder, stored, frames)
    visual = params["visual"]
    table = resize_temporal(np.asarray(visual["temporal_embedding"]), frames)
    return params | {"visual": visual | {"temporal_embedding": table}}


def _check_finite(folder: Path, params: dict[str, Any]) -> None:
    """Raises ModelFolderError, which names the leaf, if any weights are not finite."""
    for path, leaf in traverse_util.flatten_dict(params, sep="/").items():
        if not np.isfinite(leaf).all():
            wrong = np.argwhere(~np.isfinite(leaf))
            raise ModelFolderError(
                f"{folder}: {len(wrong)} of {leaf.size} weights in {path} are not finite, "
                f"the first at {wrong[0].tolist()}; convert or train it again"
            )


def _check_fits(config: Mapping[str, Any], stored: ModelConfig, module: VideoModel) -> None:
    """Raises ModelFolderError if config and checkpoint have leaves of one kind, but with other
    shapes or in other layers. A kind that only one of them has is new, or left out by an option.
    Methods that the config adds are not checked: they begin with the leaves as they are."""
    _check_settled(config, stored, module)
    known = module.clone(methods=tuple(m for m in module.methods if m.name in stored.methods))
    trees = model_shapes(stored.spec, stored.methods, stored.frames), abstract_params(known)
    have, wanted = (traverse_util.flatten_dict(tree, sep="/") for tree in trees)
    common = {_kind(path) for path in have} & {_kind(path) for path in wanted}
    differences = []
    for path in sorted(have.keys() | wanted.keys()):
        found, needed = (str([*x[path].shape]) if path in x else "none" for x in (have, wanted))
        if _kind(path) in common and found != needed:
            differences.append(f"{path}: {found} in the checkpoint, {needed} in the config's model")
    if differences:
        raise ModelFolderError(
            f"{config['checkpoint']} is for frames={stored.frames} and {stored.methods}, "
            f"config.model for frames={config['frames']} and "
            f"{method_options(config, stored.methods)}:\n  " + "\n  ".join(differences)
        )


def _check_settled(config: Mapping[str, Any], stored: ModelConfig, module: VideoModel) -> None:
    """Raises ModelFolderError if the config has another value for an option that is settled."""
    kept = {method.name: method for method in build_methods(stored.methods)}
    for method in module.methods:
        settled = method.settled if method.name in kept else ()
        for option in (field.name for field in dataclasses.fields(method) if field.name in settled):
            have, wanted = getattr(kept[method.name], option), getattr(method, option)
            if have != wanted:
                raise ModelFolderError(
                    f"{config['checkpoint']} was trained with {method.name}.{option}={have!r}, the "
                    f"config has {wanted!r}; take the checkpoint's value, or another checkpoint"
                )


def _kind(path: str) -> str:
    """The path without the numbers of layers."""
    return re.sub(r"_\d+(?=/)", "", path)


def _complete(
    module: VideoModel, have: dict[str, Any], stored: set[str], seed: int
) -> dict[str, Any]:
    """Completes loaded leaves, given by path, with fresh ones for the rest of the model."""

    def fresh(key: jax.Array) -> dict[str, jax.Array]:
        leaves = traverse_util.flatten_dict(init_params(module, key), sep="/")
        return {path: leaf for path, leaf in leaves.items() if path not in have}

    # Only the new leaves are results, so only they are computed.
    new = jax.device_get(jax.jit(fresh)(jax.random.key(seed)))
    if have:
        for path, leaf in new.items():
            logging.info("new: %s %s", path, leaf.shape)
    params = traverse_util.unflatten_dict(have | new, sep="/")
    for method in module.methods:
        if method.name not in stored:
            params = method.init_from_backbone(params, module.spec)
    return params
