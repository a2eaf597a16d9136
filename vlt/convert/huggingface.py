"""What a Hugging Face folder's JSON files say beside the tensors, and those files written back."""

from pathlib import Path
from typing import Any

from vlt.convert.errors import ConversionError
from vlt.convert.reading import read_json
from vlt.models.spec import DualEncoderSpec, TextSpec, VisionSpec
from vlt.models.video_model import CLIP_MEAN, CLIP_STD

# PIL's codes.
_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


def clip_spec(folder: Path) -> DualEncoderSpec:
    """The spec that a CLIP's config.json gives.

    Raises ConversionError: not a CLIP, or it pools text elsewhere than at the highest id.
    """
    from transformers import CLIPConfig

    path = folder / "config.json"
    kind = read_json(path).get("model_type")
    if kind != "clip":
        raise ConversionError(f"{path}: model_type is {kind!r}, not 'clip'")
    # transformers fills in what the file leaves at its defaults.
    try:
        config: Any = CLIPConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # its validation raises many kinds
        raise ConversionError(f"{path}: {error}") from error
    visual, text = config.vision_config, config.text_config
    # 2 marks old files: transformers then pools at the highest id.
    if text.eos_token_id not in (2, text.vocab_size - 1):
        raise ConversionError(
            f"{path}: text_config.eos_token_id is {text.eos_token_id}, but text is pooled at the "
            f"highest id, {text.vocab_size - 1}"
        )
    vision_spec = VisionSpec(visual.image_size, visual.patch_size, **_tower(path, visual))
    text_spec = TextSpec(text.max_position_embeddings, text.vocab_size, **_tower(path, text))
    return DualEncoderSpec(vision_spec, text_spec, config.projection_dim)


def _tower(path: Path, tower: Any) -> dict[str, Any]:
    if tower.hidden_act not in ("quick_gelu", "gelu"):
        raise ConversionError(f"{path}: hidden_act is {tower.hidden_act!r}: quick_gelu or gelu")
    return {
        "width": tower.hidden_size,
        "layers": tower.num_hidden_layers,
        "heads": tower.num_attention_heads,
        "mlp_width": tower.intermediate_size,
        "activation": tower.hidden_act,
        "norm_eps": tower.layer_norm_eps,
    }


def preprocessing(folder: Path | None, image_size: int) -> tuple[dict[str, Any], str]:
    """The model folder's `preprocessing` entry, and where it comes from.

    Raises ConversionError when the processor does what that entry can't express.
    """
    for name in ("preprocessor_config.json", "processor_config.json"):
        if folder is not None and (folder / name).exists():
            fields = read_json(folder / name)
            return _processor(folder / name, fields.get("image_processor", fields), image_size)
    return default_preprocessing(image_size), "CLIP's, assumed"


def default_preprocessing(image_size: int) -> dict[str, Any]:
    """CLIP's."""
    return {
        "image_size": image_size,
        "mean": list(CLIP_MEAN),
        "std": list(CLIP_STD),
        "resize": "bicubic",
        "crop": "center",
    }


def _processor(path: Path, fields: dict[str, Any], image_size: int) -> tuple[dict[str, Any], str]:
    size, crop = fields.get("size", image_size), fields.get("crop_size", image_size)
    if isinstance(size, dict) and "shortest_edge" not in size:
        raise ConversionError(f"{path}: size={size}: only the shortest edge can be set")
    size, crop = _side(size), _side(crop)
    if {size, crop} != {image_size}:
        raise ConversionError(
            f"{path}: resizes to {size} and crops to {crop}, but the tensors are for {image_size}"
        )
    for step in ("do_resize", "do_center_crop", "do_rescale", "do_normalize"):
        if not fields.get(step, True):
            raise ConversionError(f"{path}: {step} is off, which a CLIP's preprocessing needs")
    entry = default_preprocessing(image_size) | {
        "mean": [float(x) for x in fields.get("image_mean", CLIP_MEAN)],
        "std": [float(x) for x in fields.get("image_std", CLIP_STD)],
        "resize": _FILTERS.get(fields.get("resample", 3)),
    }
    if entry["resize"] is None:
        raise ConversionError(f"{path}: resample={fields['resample']}; one of {_FILTERS}")
    return entry, path.name


def _side(size: int | dict[str, int]) -> int:
    return size if isinstance(size, int) else next(iter(size.values()))


def config_json(spec: DualEncoderSpec) -> dict[str, Any]:
    """config.json of a transformers CLIPModel."""
    visual, text = spec.visual, spec.text
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": spec.embed_dim,
        "vision_config": {
            "image_size": visual.image_size,
            "patch_size": visual.patch_size,
            **_tower_json(visual, spec.embed_dim),
        },
        "text_config": {
            "vocab_size": text.vocab,
            "max_position_embeddings": text.context,
            "bos_token_id": text.vocab - 2,
            "eos_token_id": text.vocab - 1,
            **_tower_json(text, spec.embed_dim),
        },
    }


def _tower_json(tower: Any, embed_dim: int) -> dict[str, Any]:
    return {
        "hidden_size": tower.width,
        "intermediate_size": tower.mlp_width,
        "num_hidden_layers": tower.layers,
        "num_attention_heads": tower.heads,
        "hidden_act": tower.activation,
        "layer_norm_eps": tower.norm_eps,
        "projection_dim": embed_dim,
    }


def preprocessor_json(entry: dict[str, Any]) -> dict[str, Any]:
    """preprocessor_config.json that says the same as a `preprocessing` entry."""
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": entry["image_size"]},
        "resample": {name: code for code, name in _FILTERS.items()}[entry["resize"]],
        "do_center_crop": True,
        "crop_size": {"height": entry["image_size"], "width": entry["image_size"]},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": entry["mean"],
        "image_std": entry["std"],
        "do_convert_rgb": True,
    }
