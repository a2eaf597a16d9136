"""Reads what a BLIP's config.json says beyond its tensors, and writes that file back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlt.convert.errors import ConversionError
from vlt.convert.layouts.huggingface import (
    count,
    fraction,
    image_fields,
    load_config,
    text_fields,
    tower_fields,
    tower_json,
)
from vlt.models.spec import BertSpec, BlipSpec, VisionSpec

_CLASSES = {
    "BlipForConditionalGeneration": "captioner",
    "BlipForImageTextRetrieval": "retriever",
    "BlipForQuestionAnswering": "answerer",
}
_JOINT = 768  # projection_dim of both towers, which no tensor of these models depends on
_LABEL_SMOOTHING = 0.1
# The values of BLIP's own code where transformers' configs have others; they may be set.
ORIGINAL = {"visual.norm_eps": 1e-6, "text.dropout": 0.1}


def stated_kind(config: Mapping[str, Any]) -> str | None:
    """The kind of BLIP whose class a config.json names; None where it names none."""
    named = config.get("architectures")
    if config.get("model_type") != "blip" or not isinstance(named, list):
        return None
    return next((kind for name, kind in _CLASSES.items() if named[:1] == [name]), None)


def blip_spec(folder: Path, kind: str, settings: Mapping[str, Any]) -> tuple[BlipSpec, list[str]]:
    """The spec that a BLIP's config.json gives, and notes on what differs from the original.

    settings: those in `ORIGINAL` take precedence over the file.
    Raises ConversionError: not a BLIP, or something that a spec can't say.
    """
    path = folder / "config.json"
    config = load_config(path, "blip")
    visual, text = config.vision_config, config.text_config
    if text.pad_token_id != 0:
        raise ConversionError(f"{path}: pad_token_id is {text.pad_token_id!r}, not 0")
    stated = {
        "visual.norm_eps": fraction(path, visual, "layer_norm_eps"),
        "text.dropout": fraction(path, text, "hidden_dropout_prob"),
    }
    values = {key: settings.get(key, value) for key, value in stated.items()}
    vision_spec = VisionSpec(
        *image_fields(path, visual),
        **tower_fields(path, visual) | {"norm_eps": values["visual.norm_eps"]},
        pre_norm=False,
        patch_bias=True,
        projection_bias=True,
    )
    text_spec = BertSpec(
        *text_fields(path, text),
        source_width=vision_spec.width,
        decode_id=count(path, text, "bos_token_id", 0),
        encode_id=count(path, text, "bos_token_id", 0) + 1,
        end_id=count(path, text, "sep_token_id", 0),
        dropout=values["text.dropout"],
        **tower_fields(path, text),
    )
    joint = count(path, config, "image_text_hidden_size") if kind == "retriever" else 0
    notes = [
        f"{key}: {value:g}, BLIP's own code has {ORIGINAL[key]:g} (--set {key})"
        for key, value in values.items()
        if value != ORIGINAL[key]
    ]
    return BlipSpec(kind, vision_spec, text_spec, joint), notes


def blip_json(spec: BlipSpec) -> dict[str, Any]:
    """config.json of transformers' model of this kind.

    Raises ConversionError: transformers' model can't have these sizes.
    """
    visual, text = spec.visual, spec.text
    if spec.kind == "answerer" and visual.width != text.width:
        raise ConversionError(
            "transformers' BlipForQuestionAnswering wants a vision tower as wide as the text's, "
            f"not {visual.width} and {text.width}; --family blip writes the authors' layout"
        )
    # A captioner's texts all start with [DEC].
    if spec.kind != "captioner" and text.encode_id != text.decode_id + 1:
        raise ConversionError(f"[ENC] is {text.encode_id}, not [DEC] + 1 ({text.decode_id + 1})")
    return {
        "architectures": [{kind: name for name, kind in _CLASSES.items()}[spec.kind]],
        "model_type": "blip",
        "projection_dim": _JOINT,
        "image_text_hidden_size": spec.embed_dim or 256,
        "vision_config": {
            "image_size": visual.image_size,
            "patch_size": visual.patch_size,
            **tower_json(visual, _JOINT),
        },
        "text_config": {
            "vocab_size": text.vocab,
            "max_position_embeddings": text.context,
            "encoder_hidden_size": text.source_width,
            "bos_token_id": text.decode_id,
            "sep_token_id": text.end_id,
            "eos_token_id": text.end_id,
            "pad_token_id": 0,
            "hidden_dropout_prob": text.dropout,
            "attention_probs_dropout_prob": text.dropout,
            "label_smoothing": _LABEL_SMOOTHING,
            **tower_json(text, _JOINT),
        },
    }
