"""Reads what a VideoPrism's config.json says beyond its tensors, and writes that file back."""

import dataclasses
from pathlib import Path
from typing import Any

from vlt.convert.errors import ConversionError
from vlt.convert.layouts.huggingface import count, load_config, size_fields, text_fields
from vlt.convert.layouts.videoprism import MODEL_TYPE, TEXT, VISUAL
from vlt.models.spec import DualEncoderSpec, EncoderSpec, PoolerSpec, TextSpec, VisionSpec

_ACTIVATIONS = {"gelu": "gelu", "gelu_python": "gelu", "relu": "relu"}  # transformers' and ours


def encoder_spec(folder: Path) -> EncoderSpec:
    """The spec that the config.json of a VideoPrism video encoder gives.

    Raises ConversionError: not such a model, or sizes that it can't have.
    """
    path = folder / "config.json"
    visual = vision_spec(path, load_config(path, f"{MODEL_TYPE}_vision_model"))
    return EncoderSpec(dataclasses.replace(visual, pool="mean", pooler=None))


def encoder_json(visual: VisionSpec) -> dict[str, Any]:
    """config.json of a transformers VideoPrismVisionModel."""
    named = {"architectures": ["VideoPrismVisionModel"], "model_type": f"{MODEL_TYPE}_vision_model"}
    return named | vision_json(visual)


def videoprism_spec(folder: Path) -> DualEncoderSpec:
    """The spec that the config.json of a VideoPrism LvT gives.

    Raises ConversionError: not such a model, or sizes that it can't have.
    """
    path = folder / "config.json"
    config = load_config(path, MODEL_TYPE)
    vision, text = config.vision_config, config.text_config
    visual = vision_spec(path, vision, count(path, vision, "num_auxiliary_layers"))
    words = TEXT | tower_fields(path, text) | {"layers": count(path, text, "num_hidden_layers")}
    context, vocab = text_fields(path, text)
    text_spec = TextSpec(vocab=vocab, **words | {"context": context})
    if text_spec.width != visual.width:
        raise ConversionError(
            f"{path}: text_config.hidden_size is {text_spec.width}, but what is pooled of a video "
            f"is {visual.width} wide"
        )
    return DualEncoderSpec(visual, text_spec, visual.width)


def vision_spec(path: Path, vision: Any, *auxiliary: int) -> VisionSpec:
    """The video encoder's spec. auxiliary: blocks over all patches, which attention then pools."""
    stages = (
        count(path, vision, "num_spatial_layers"),
        count(path, vision, "num_temporal_layers"),
        *auxiliary,
    )
    fields = tower_fields(path, vision)
    pooler = PoolerSpec(fields["heads"], 4 * fields["width"], channel_scale=True)
    tubelet = [*vision.tubelet_size]
    if len(tubelet) != 3 or tubelet[0] != 1 or len({*tubelet[1:]}) != 1:
        raise ConversionError(f"{path}: tubelet_size is {tubelet}, not that of a square of 1 frame")
    sides = vision.image_size if isinstance(vision.image_size, int) else {*vision.image_size}
    side = sides if isinstance(sides, int) else sides.pop() if len(sides) == 1 else 0
    if not 1 <= tubelet[1] <= side or side % tubelet[1]:
        raise ConversionError(
            f"{path}: image_size is {vision.image_size}; square images of whole patches of "
            f"{tubelet[1]} are taken"
        )
    return VisionSpec(
        image_size=side,
        patch_size=tubelet[1],
        layers=sum(stages),
        stages=stages,
        temporal_frames=count(path, vision, "num_frames"),
        pooler=pooler,
        **VISUAL | fields,
    )


def tower_fields(path: Path, tower: Any) -> dict[str, Any]:
    """Fields of a spec that every tower has, except for its layers.

    Raises ConversionError: an unknown activation, no `qkv_bias`, or numbers that are invalid.
    """
    if tower.hidden_act not in _ACTIVATIONS or not tower.qkv_bias:
        raise ConversionError(
            f"{path}: hidden_act must be {' or '.join(_ACTIVATIONS)} and qkv_bias true, got "
            f"{str(tower.hidden_act)[:60]!r} and {tower.qkv_bias}"
        )
    cap = tower.attn_logit_softcapping
    if type(cap) not in (int, float) or not 0 < cap <= 1e4:
        raise ConversionError(f"{path}: attn_logit_softcapping must be > 0 and at most 10000")
    told = {"activation": _ACTIVATIONS[tower.hidden_act], "logit_cap": float(cap)}
    return size_fields(path, tower) | told


def videoprism_json(spec: DualEncoderSpec) -> dict[str, Any]:
    """config.json of a transformers VideoPrismClipModel."""
    text = spec.text
    return {
        "architectures": ["VideoPrismClipModel"],
        "model_type": MODEL_TYPE,
        "vision_config": {"model_type": "videoprism_vision_model", **vision_json(spec.visual)},
        "text_config": {
            "model_type": "videoprism_text_model",
            "vocab_size": text.vocab,
            "max_position_embeddings": text.context,
            "num_hidden_layers": text.layers,
            **_tower_json(text),
        },
    }


def vision_json(visual: VisionSpec) -> dict[str, Any]:
    """Inverse of `vision_spec`."""
    spatial, temporal, *auxiliary = visual.stages
    return {
        "image_size": visual.image_size,
        "tubelet_size": [1, visual.patch_size, visual.patch_size],
        "num_frames": visual.temporal_frames,
        "num_spatial_layers": spatial,
        "num_temporal_layers": temporal,
        "num_auxiliary_layers": sum(auxiliary),
        **_tower_json(visual),
    }


def _tower_json(tower: VisionSpec | TextSpec) -> dict[str, Any]:
    return {
        "hidden_size": tower.width,
        "num_attention_heads": tower.heads,
        "intermediate_size": tower.mlp_width,
        "hidden_act": "gelu_python" if tower.activation == "gelu" else tower.activation,
        "layer_norm_eps": tower.norm_eps,
        "attn_logit_softcapping": tower.logit_cap,
    }
