"""Reads what a CLIP's config.json says beyond its tensors, and writes that file back."""

import dataclasses
import reprlib
from pathlib import Path
from typing import Any

from vlt.convert.errors import ConversionError
from vlt.convert.files.json_files import read_json
from vlt.models.spec import DualEncoderSpec, TextSpec, VisionSpec

# transformers' names for activations, and ours.
_ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}
METACLIP2 = "metaclip_2"  # model_type of a CLIP whose text is read at its end token
_CLIP_VISION = "clip_vision_model"  # of a CLIP's vision tower alone
_MOST = 10**6  # for counts in a config; vocabularies have the largest


def clip_spec(folder: Path, model_type: str = "clip") -> DualEncoderSpec:
    """The spec in the config.json of a CLIP, or of a model of another type that is built like it.

    Raises ConversionError: neither of `model_type` nor a MetaCLIP 2, or a CLIP that pools text
    elsewhere than at the highest id.
    """
    path = folder / "config.json"
    stated = read_json(path).get("model_type")
    config = load_config(path, METACLIP2 if stated == METACLIP2 else model_type)
    visual, text = config.vision_config, config.text_config
    vision_spec = VisionSpec(*image_fields(path, visual), **tower_fields(path, visual))
    text_spec = TextSpec(*text_fields(path, text), **tower_fields(path, text))
    joint = count(path, config, "projection_dim")
    if stated == METACLIP2:
        ends = {"end_id": count(path, text, "eos_token_id", 0)}
        ends["pad_id"] = count(path, text, "pad_token_id", 0)
        if (highest := max(ends.values())) >= text_spec.vocab:
            raise ConversionError(f"{path}: id {highest} of a vocabulary of {text_spec.vocab}")
        text_spec = dataclasses.replace(
            text_spec, readout="end", end_id=ends["end_id"], pad_id=ends["pad_id"]
        )
        return DualEncoderSpec(vision_spec, text_spec, joint)
    # 2 marks old files: transformers then pools at the highest id.
    if text.eos_token_id not in (2, text_spec.vocab - 1):
        raise ConversionError(
            f"{path}: text_config.eos_token_id is {_shown(text.eos_token_id)}, but text is pooled "
            f"at the highest id, {text_spec.vocab - 1}"
        )
    return DualEncoderSpec(vision_spec, text_spec, joint)


def clip_vision_spec(folder: Path) -> VisionSpec:
    """The vision tower's spec in the config.json of a CLIP, or of its vision tower alone.

    Raises ConversionError: as `clip_spec`.
    """
    path = folder / "config.json"
    if read_json(path).get("model_type") != _CLIP_VISION:
        return clip_spec(folder).visual
    visual = load_config(path, _CLIP_VISION)
    return VisionSpec(*image_fields(path, visual), **tower_fields(path, visual))


def load_config(path: Path, model_type: str) -> Any:
    """Loads a file as transformers' config, which fills in the defaults that the file leaves out.

    Raises ConversionError: of another type, or refused by transformers.
    """
    from transformers import AutoConfig

    kind = read_json(path).get("model_type")
    if kind != model_type:
        raise ConversionError(
            f"{path}: model_type is {kind!r}, not {model_type!r}; name the weight file to have its "
            "sizes read off the tensors"
        )
    try:
        return AutoConfig.from_pretrained(
            path.parent, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # its validation raises many kinds of errors
        raise ConversionError(f"{path}: {' '.join(str(error).split())}") from error


def count(path: Path, config: Any, key: str, least: int = 1) -> int:
    """A whole number in a config, from `least` to a million.

    Raises ConversionError: it is anything else.
    """
    value: Any = getattr(config, key, None)
    if type(value) is not int or not least <= value <= _MOST:
        raise ConversionError(
            f"{path}: {_name(config, key)} must be a whole number between {least} and {_MOST}, got "
            f"{_shown(value)}"
        )
    return value


def fraction(path: Path, config: Any, key: str) -> float:
    """A number in a config, from 0 up to but not including 1.

    Raises ConversionError: it is anything else.
    """
    value: Any = getattr(config, key, None)
    if type(value) not in (int, float) or not 0 <= value < 1:
        raise ConversionError(
            f"{path}: {_name(config, key)} must be >= 0 and < 1, got {_shown(value)}"
        )
    return float(value)


def _name(config: Any, key: str) -> str:
    section = getattr(config, "base_config_key", "")
    return f"{section}.{key}" if section else key


def _shown(value: Any) -> str:
    return reprlib.repr(value)


def image_fields(path: Path, visual: Any) -> tuple[int, int]:
    """Side lengths of the image and of a patch, in pixels.

    Raises ConversionError: the image is smaller than a patch.
    """
    image, patch = count(path, visual, "image_size"), count(path, visual, "patch_size")
    if image < patch:
        raise ConversionError(f"{path}: image_size {image} is less than patch_size {patch}")
    return image, patch


def text_fields(path: Path, text: Any) -> tuple[int, int]:
    """Sizes of the context and of the vocabulary, in tokens."""
    return count(path, text, "max_position_embeddings"), count(path, text, "vocab_size")


def tower_fields(path: Path, tower: Any) -> dict[str, Any]:
    """Fields of a spec that every tower has.

    Raises ConversionError: an unknown activation, or numbers that are invalid for a tower.
    """
    if tower.hidden_act not in tuple(_ACTIVATIONS):
        raise ConversionError(
            f"{path}: hidden_act must be {' or '.join(_ACTIVATIONS)}, got "
            f"{_shown(tower.hidden_act)}"
        )
    layers = count(path, tower, "num_hidden_layers")
    told = {"layers": layers, "activation": _ACTIVATIONS[tower.hidden_act]}
    return size_fields(path, tower) | told


def size_fields(path: Path, tower: Any) -> dict[str, Any]:
    """A tower's fields `width`, `heads`, `mlp_width` and `norm_eps`.

    Raises ConversionError: numbers that are invalid for a tower.
    """
    width, heads = count(path, tower, "hidden_size"), count(path, tower, "num_attention_heads")
    if width % heads:
        raise ConversionError(
            f"{path}: {_name(tower, 'num_attention_heads')} is {heads}, which does not divide "
            f"hidden_size, {width}"
        )
    return {
        "width": width,
        "heads": heads,
        "mlp_width": count(path, tower, "intermediate_size"),
        "norm_eps": fraction(path, tower, "layer_norm_eps"),
    }


def clip_json(spec: DualEncoderSpec) -> dict[str, Any]:
    """config.json of a transformers CLIPModel, or MetaClip2Model."""
    visual, text = spec.visual, spec.text
    at_end = text.readout == "end"
    ends = {"bos_token_id": text.vocab - 2, "eos_token_id": text.vocab - 1}
    if at_end:
        ends = {"bos_token_id": 0, "pad_token_id": text.pad_id, "eos_token_id": text.end_id}
    return {
        "architectures": ["MetaClip2Model" if at_end else "CLIPModel"],
        "model_type": METACLIP2 if at_end else "clip",
        "projection_dim": spec.embed_dim,
        "vision_config": {
            "image_size": visual.image_size,
            "patch_size": visual.patch_size,
            **tower_json(visual, spec.embed_dim),
        },
        "text_config": {
            "vocab_size": text.vocab,
            "max_position_embeddings": text.context,
            **ends,
            **tower_json(text, spec.embed_dim),
        },
    }


def tower_json(tower: Any, embed_dim: int) -> dict[str, Any]:
    """Inverse of `tower_fields`. Raises ConversionError: an activation not in `_ACTIVATIONS`."""
    if tower.activation not in _ACTIVATIONS.values():
        raise ConversionError(f"activation {tower.activation}: no name of transformers' is known")
    return {
        "hidden_size": tower.width,
        "intermediate_size": tower.mlp_width,
        "num_hidden_layers": tower.layers,
        "num_attention_heads": tower.heads,
        "hidden_act": {ours: theirs for theirs, ours in _ACTIVATIONS.items()}[tower.activation],
        "layer_norm_eps": tower.norm_eps,
        "projection_dim": embed_dim,
    }
