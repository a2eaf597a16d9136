"""What a CLIP's config.json says beside the tensors, and that file written back."""

from pathlib import Path
from typing import Any

from vlt.convert.errors import ConversionError
from vlt.convert.json_files import read_json
from vlt.models.spec import DualEncoderSpec, TextSpec, VisionSpec


def clip_spec(folder: Path) -> DualEncoderSpec:
    """The spec that a CLIP's config.json gives.

    Raises ConversionError: not a CLIP, or it pools text elsewhere than at the highest id.
    """
    path = folder / "config.json"
    config = load_config(path, "clip")
    visual, text = config.vision_config, config.text_config
    # 2 marks old files: transformers then pools at the highest id.
    if text.eos_token_id not in (2, text.vocab_size - 1):
        raise ConversionError(
            f"{path}: text_config.eos_token_id is {text.eos_token_id}, but text is pooled at the "
            f"highest id, {text.vocab_size - 1}"
        )
    vision_spec = VisionSpec(visual.image_size, visual.patch_size, **tower_fields(path, visual))
    text_spec = TextSpec(text.max_position_embeddings, text.vocab_size, **tower_fields(path, text))
    return DualEncoderSpec(vision_spec, text_spec, config.projection_dim)


def load_config(path: Path, model_type: str) -> Any:
    """transformers' config of a file; it fills in what that leaves at its defaults.

    Raises ConversionError: of another type, or refused.
    """
    from transformers import AutoConfig

    kind = read_json(path).get("model_type")
    if kind != model_type:
        raise ConversionError(
            f"{path}: model_type is {kind!r}, not {model_type!r}; name the weight file to have its "
            "sizes read off the tensors"
        )
    try:
        return AutoConfig.from_pretrained(path.parent, local_files_only=True)
    except Exception as error:  # its validation raises many kinds
        raise ConversionError(f"{path}: {error}") from error


def tower_fields(path: Path, tower: Any) -> dict[str, Any]:
    """Fields of a spec that every tower has.

    Raises ConversionError: an unknown activation.
    """
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


def clip_json(spec: DualEncoderSpec) -> dict[str, Any]:
    """config.json of a transformers CLIPModel."""
    visual, text = spec.visual, spec.text
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": spec.embed_dim,
        "vision_config": {
            "image_size": visual.image_size,
            "patch_size": visual.patch_size,
            **tower_json(visual, spec.embed_dim),
        },
        "text_config": {
            "vocab_size": text.vocab,
            "max_position_embeddings": text.context,
            "bos_token_id": text.vocab - 2,
            "eos_token_id": text.vocab - 1,
            **tower_json(text, spec.embed_dim),
        },
    }


def tower_json(tower: Any, embed_dim: int) -> dict[str, Any]:
    """Inverse of `tower_fields`."""
    return {
        "hidden_size": tower.width,
        "intermediate_size": tower.mlp_width,
        "num_hidden_layers": tower.layers,
        "num_attention_heads": tower.heads,
        "hidden_act": tower.activation,
        "layer_norm_eps": tower.norm_eps,
        "projection_dim": embed_dim,
    }
