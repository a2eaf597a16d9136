"""The `preprocessing` entry of a model folder, and the processor files of Hugging Face folders.

CLIP resizes the short side and crops the central square; BLIP, SigLIP, PE and VideoPrism resize to
a square.
"""

import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlt.convert.errors import ConversionError
from vlt.convert.files.json_files import read_json
from vlt.models.spec import ChatSpec, Spec
from vlt.models.video_model import CLIP_MEAN, CLIP_STD

HALF = (0.5, 0.5, 0.5)  # pixels from -1 to 1
FILES = ("preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json")
# PIL's codes.
FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


def preprocessing(
    folder: Path | None, spec: Spec, pixels: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], str]:
    """The model folder's `preprocessing` entry, and where it comes from.

    pixels: the layout's own values, if any; the processor then changes only how frames are resized,
    since transformers' VideoPrism is told not to normalise when it is called.

    Raises ConversionError when the processor does something that the entry can't express.
    """
    for name in FILES:
        if folder is not None and (folder / name).exists():
            fields = read_json(folder / name)
            part = "video_processor" if "video_processor" in fields else "image_processor"
            fields = fields.get(part, fields)
            if not isinstance(fields, dict):
                raise ConversionError(f"{folder / name}: {part} is not an object")
            return _processor(folder / name, fields, spec, pixels or {})
    return default_preprocessing(spec) | dict(pixels or {}), f"{_owner(spec)}'s, assumed"


def with_settings(
    entry: dict[str, Any], where: str, settings: Mapping[str, Any], notes: list[str]
) -> dict[str, Any]:
    """Applies the settings to the entry and returns it; adds a note on `where` it comes from."""
    for key in ("mean", "std", "resize"):
        if f"preprocessing.{key}" in settings:
            entry[key] = settings[f"preprocessing.{key}"]
            where += f", {key} set"
    notes.append(f"preprocessing: {where}")
    return entry


def default_preprocessing(spec: Spec) -> dict[str, Any]:
    """CLIP's entry, BLIP's, or, for a tower with attention pooling, that of SigLIP 2 and PE."""
    if spec.visual.pool == "attention":
        pixels = {"mean": list(HALF), "std": list(HALF), "resize": "bilinear", "crop": "none"}
        return {"image_size": spec.visual.image_size} | pixels
    return {
        "image_size": spec.visual.image_size,
        "mean": list(CLIP_MEAN),
        "std": list(CLIP_STD),
        "resize": "bicubic",
        "crop": "center" if _owner(spec) == "CLIP" else "none",
    }


def _owner(spec: Spec) -> str:
    if spec.visual.stages:
        return "VideoPrism"
    if spec.visual.pool == "attention":
        return "SigLIP"
    clip = spec.kind == "dual_encoder" or (isinstance(spec, ChatSpec) and spec.qformer is None)
    return "CLIP" if clip else "BLIP"


def _processor(
    path: Path, fields: dict[str, Any], spec: Spec, pixels: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
    entry = default_preprocessing(spec) | dict(pixels)
    if _is_squared(fields):
        entry["crop"] = "none"
    steps = ["do_resize", "do_rescale", *(["do_normalize"] if not pixels else [])]
    if entry["crop"] == "center":
        steps.append("do_center_crop")
        _check_short_side(path, fields, entry["image_size"])
    else:
        _check_square(path, fields, entry["image_size"])
    for step in steps:
        if fields.get(step, True) is not True:
            owner = _owner(spec)
            raise ConversionError(f"{path}: {step} is off, which a {owner}'s preprocessing needs")
    resample, factor = fields.get("resample", 3), fields.get("rescale_factor", 1 / 255)
    if type(resample) is not int or resample not in FILTERS:
        raise ConversionError(
            f"{path}: unknown resample: {reprlib.repr(resample)}; choose from {FILTERS}"
        )
    if type(factor) not in (int, float) or abs(255 * factor - 1) > 1e-3:
        raise ConversionError(f"{path}: rescale_factor={reprlib.repr(factor)}; must be 1/255")
    entry["resize"] = FILTERS[resample]
    if not pixels:
        entry["mean"] = _colours(path, fields, "image_mean", entry["mean"])
        entry["std"] = _colours(path, fields, "image_std", entry["std"])
    if min(entry["std"]) <= 0:
        raise ConversionError(f"{path}: image_std must be > 0, got {entry['std']}")
    return entry, path.name


def _is_squared(fields: dict[str, Any]) -> bool:
    """Whether a processor itself says that it resizes to a square, whatever the model."""
    size = fields.get("size")
    squared = isinstance(size, dict) and {"height", "width"} <= size.keys()
    return squared and fields.get("do_center_crop") is False


def _colours(path: Path, fields: dict[str, Any], key: str, usual: Sequence[float]) -> list[float]:
    """Three numbers, one per colour channel."""
    values = fields.get(key, usual)
    numbers = isinstance(values, Sequence) and all(type(x) in (int, float) for x in values)
    if not numbers or len(values) != 3 or not all(abs(x) < 1000 for x in values):
        raise ConversionError(f"{path}: {key} must be three numbers, got {reprlib.repr(values)}")
    return [float(x) for x in values]


def _check_short_side(path: Path, fields: dict[str, Any], image_size: int) -> None:
    size, crop = fields.get("size", image_size), fields.get("crop_size", image_size)
    if isinstance(size, dict) and "shortest_edge" not in size:
        raise ConversionError(
            f"{path}: size={reprlib.repr(size)}: only the shortest edge can be set"
        )
    sides = [_sides(size, "shortest_edge"), _sides(crop, "height", "width")]
    if sides != [{image_size}, {image_size}]:
        raise ConversionError(
            f"{path}: resizes to {reprlib.repr(size)} and crops to {reprlib.repr(crop)}, but the "
            f"tensors are for {image_size}"
        )


def _check_square(path: Path, fields: dict[str, Any], image_size: int) -> None:
    size = fields.get("size", image_size)
    if _sides(size, "height", "width") != {image_size} or fields.get("do_center_crop"):
        raise ConversionError(
            f"{path}: size={reprlib.repr(size)}, do_center_crop="
            f"{reprlib.repr(fields.get('do_center_crop', False))}, but the tensors are for images "
            f"resized to {image_size} by {image_size}"
        )


def _sides(size: Any, *keys: str) -> set[int]:
    """The lengths under `keys` of a size, or the size itself; empty unless all are integers."""
    lengths: list[Any] = [size.get(key) for key in keys] if isinstance(size, dict) else [size]
    return {*lengths} if all(type(length) is int for length in lengths) else set()


def preprocessor_json(entry: dict[str, Any], squared: str = "BlipImageProcessor") -> dict[str, Any]:
    """The preprocessor_config.json that says the same as a `preprocessing` entry.

    squared: the class of transformers that resizes to a square.
    """
    side = entry["image_size"]
    square = {"height": side, "width": side}
    if entry["crop"] == "center":
        shape = {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": side},
            "do_center_crop": True,
            "crop_size": square,
        }
    else:
        # Said, since CLIPImageProcessor crops unless told not to.
        shape = {"image_processor_type": squared, "size": square, "do_center_crop": False}
    return shape | {
        "do_resize": True,
        "resample": {name: code for code, name in FILTERS.items()}[entry["resize"]],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": entry["mean"],
        "image_std": entry["std"],
        "do_convert_rgb": True,
    }
