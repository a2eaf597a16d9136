"""The `preprocessing` entry of a model folder, and the processor files of Hugging Face folders.

CLIP resizes the short side and cuts the central square, BLIP resizes to the square.
"""

from pathlib import Path
from typing import Any

from vlt.convert.errors import ConversionError
from vlt.convert.json_files import read_json
from vlt.models.spec import Spec
from vlt.models.video_model import CLIP_MEAN, CLIP_STD

# PIL's codes.
_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


def preprocessing(folder: Path | None, spec: Spec) -> tuple[dict[str, Any], str]:
    """The model folder's `preprocessing` entry, and where it comes from.

    Raises ConversionError when the processor does what that entry can't express.
    """
    for name in ("preprocessor_config.json", "processor_config.json"):
        if folder is not None and (folder / name).exists():
            fields = read_json(folder / name)
            return _processor(folder / name, fields.get("image_processor", fields), spec)
    return default_preprocessing(spec), f"{_owner(spec)}'s, assumed"


def default_preprocessing(spec: Spec) -> dict[str, Any]:
    """CLIP's or BLIP's."""
    return {
        "image_size": spec.visual.image_size,
        "mean": list(CLIP_MEAN),
        "std": list(CLIP_STD),
        "resize": "bicubic",
        "crop": "center" if _owner(spec) == "CLIP" else "none",
    }


def _owner(spec: Spec) -> str:
    return "CLIP" if spec.kind == "dual_encoder" else "BLIP"


def _processor(path: Path, fields: dict[str, Any], spec: Spec) -> tuple[dict[str, Any], str]:
    entry = default_preprocessing(spec)
    steps = ["do_resize", "do_rescale", "do_normalize"]
    if entry["crop"] == "center":
        steps.append("do_center_crop")
        _check_short_side(path, fields, entry["image_size"])
    else:
        _check_square(path, fields, entry["image_size"])
    for step in steps:
        if not fields.get(step, True):
            owner = _owner(spec)
            raise ConversionError(f"{path}: {step} is off, which a {owner}'s preprocessing needs")
    entry |= {
        "mean": [float(x) for x in fields.get("image_mean", CLIP_MEAN)],
        "std": [float(x) for x in fields.get("image_std", CLIP_STD)],
        "resize": _FILTERS.get(fields.get("resample", 3)),
    }
    if entry["resize"] is None:
        raise ConversionError(f"{path}: resample={fields['resample']}; one of {_FILTERS}")
    return entry, path.name


def _check_short_side(path: Path, fields: dict[str, Any], image_size: int) -> None:
    size, crop = fields.get("size", image_size), fields.get("crop_size", image_size)
    if isinstance(size, dict) and "shortest_edge" not in size:
        raise ConversionError(f"{path}: size={size}: only the shortest edge can be set")
    size, crop = _side(size), _side(crop)
    if {size, crop} != {image_size}:
        raise ConversionError(
            f"{path}: resizes to {size} and crops to {crop}, but the tensors are for {image_size}"
        )


def _check_square(path: Path, fields: dict[str, Any], image_size: int) -> None:
    size = fields.get("size", image_size)
    sides = {size.get("height"), size.get("width")} if isinstance(size, dict) else {size}
    if sides != {image_size} or fields.get("do_center_crop"):
        raise ConversionError(
            f"{path}: size={size}, do_center_crop={fields.get('do_center_crop', False)}, but the "
            f"tensors are for images resized to {image_size} by {image_size}"
        )


def _side(size: int | dict[str, int]) -> int:
    return size if isinstance(size, int) else next(iter(size.values()))


def preprocessor_json(entry: dict[str, Any]) -> dict[str, Any]:
    """preprocessor_config.json that says the same as a `preprocessing` entry."""
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
        shape = {"image_processor_type": "BlipImageProcessor", "size": square}
    return shape | {
        "do_resize": True,
        "resample": {name: code for code, name in _FILTERS.items()}[entry["resize"]],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": entry["mean"],
        "image_std": entry["std"],
        "do_convert_rgb": True,
    }
