"""X-CLIP over CLIP, as its authors and as transformers save it."""

from pathlib import Path
from typing import Any

from vlt.adapters.xclip import heads_of
from vlt.convert.errors import ConversionError
from vlt.convert.layouts.clip import (
    OPENAI,
    SCALE,
    hf_attention,
    hf_block,
    hf_text,
    hf_vision,
    openai_attention,
    openai_block,
)
from vlt.convert.layouts.huggingface import clip_json, clip_spec, load_config
from vlt.convert.layouts.viclip import IMAGENET
from vlt.convert.tables.family import Family, dense, norm
from vlt.convert.tables.table import FIRST_OF_2, LINEAR, Rule
from vlt.methods import build_methods
from vlt.model_io.folder import ModelConfig
from vlt.model_io.view import View
from vlt.models.spec import DualEncoderSpec

_CONTEXT, _FRAMES, _PROMPTS = "visual/xclip_context", "visual/xclip_frames", "xclip_prompts"


def _message(source: str, target: str, attention: list[Rule]) -> list[Rule]:
    return [
        *dense(f"{source}.message_fc", f"{target}/message"),
        *norm(f"{source}.message_ln", f"{target}/norm"),
        *attention,
    ]


def _prompts(norm_name: str) -> list[Rule]:
    """The generator of prompts for texts; its attention has a bias in the output layer alone."""
    source, target = "prompts_generator.decoder.{i}", f"{_PROMPTS}/blocks_{{i}}"
    names = {"q_proj": "query", "k_proj": "key", "v_proj": "value"}
    return [
        Rule("prompts_generator.alpha", (f"{_PROMPTS}/alpha",)),
        *norm(f"prompts_generator.{norm_name}", f"{_PROMPTS}/norm"),
        *norm(f"{source}.norm1", f"{target}/norm1"),
        *(
            Rule(f"{source}.cross_attn.{s}.weight", (f"{target}/attention/{t}/kernel",), LINEAR)
            for s, t in names.items()
        ),
        *dense(f"{source}.cross_attn.proj", f"{target}/attention/out"),
        *norm(f"{source}.norm3", f"{target}/norm2"),
        *dense(f"{source}.mlp.0", f"{target}/mlp/fc1"),
        *dense(f"{source}.mlp.3", f"{target}/mlp/fc2"),
    ]


_BLOCK, _LAYER = "visual.transformer.resblocks.{i}", "vision_model.encoder.layers.{i}"
_MESSAGE = "visual/blocks_{i}/xclip"
_VIEW = View("segment_centre", 8)

XCLIP = Family(
    name="xclip",
    sign=r"(^|\.)(visual\.transformer\.resblocks\.\d+\.message_|prompts_visual_ln\.)",
    renames=((r"^module\.", ""),),
    dropped=OPENAI.dropped,
    pixels=IMAGENET | {"crop": "center", "resize": "bilinear"},
    view=_VIEW,
    rules=(
        *_message(
            _BLOCK, _MESSAGE, openai_attention(f"{_BLOCK}.message_attn", f"{_MESSAGE}/attention")
        ),
        *norm("prompts_visual_ln", f"{_CONTEXT}/norm"),
        Rule("prompts_visual_proj", (f"{_CONTEXT}/projection/kernel",)),
        Rule("mit.positional_embedding", (f"{_FRAMES}/position_embedding",), FIRST_OF_2),
        *openai_block("mit.resblocks.{i}", f"{_FRAMES}/blocks_{{i}}"),
        *_prompts("norm"),
        *OPENAI.rules,
    ),
)

XCLIP_HF = Family(
    name="xclip_hf",
    sign=r"(^|\.)(vision_model\.encoder\.layers\.\d+\.message_|prompts_visual_layernorm\.)",
    view=_VIEW,
    rules=(
        # transformers spells this norm correctly here, but not in its CLIP.
        *norm("vision_model.pre_layernorm", "visual/pre_norm"),
        *(rule for rule in hf_vision("vision_model.") if ".pre_layrnorm." not in rule.source),
        Rule("visual_projection.weight", ("visual/projection/kernel",), LINEAR),
        *_message(
            _LAYER, _MESSAGE, hf_attention(f"{_LAYER}.message_attn", f"{_MESSAGE}/attention")
        ),
        *norm("prompts_visual_layernorm", f"{_CONTEXT}/norm"),
        Rule("prompts_visual_projection", (f"{_CONTEXT}/projection/kernel",)),
        Rule("mit.position_embedding", (f"{_FRAMES}/position_embedding",), FIRST_OF_2),
        *hf_block("mit.encoder.layers.{i}", f"{_FRAMES}/blocks_{{i}}"),
        *_prompts("layernorm"),
        *hf_text(""),
        SCALE,
    ),
)


def xclip_spec(folder: Path) -> DualEncoderSpec:
    """The spec that an X-CLIP's config.json gives.

    Raises ConversionError: not an X-CLIP, or one whose parts differ from the published ones.
    """
    path = folder / "config.json"
    config, spec = load_config(path, "xclip"), clip_spec(folder, "xclip")
    visual, width = config.vision_config, spec.embed_dim
    wanted = {
        "vision_config.mit_hidden_size": (visual.mit_hidden_size, width),
        "vision_config.mit_intermediate_size": (visual.mit_intermediate_size, 4 * width),
        "vision_config.mit_num_attention_heads": (
            visual.mit_num_attention_heads,
            heads_of(width),
        ),
        "prompt_num_attention_heads": (config.prompt_num_attention_heads, heads_of(width)),
        "prompt_hidden_act": (config.prompt_hidden_act, "quick_gelu"),
        "vision_config.hidden_act": (visual.hidden_act, "quick_gelu"),
        "vision_config.layer_norm_eps": (visual.layer_norm_eps, 1e-5),
        "text_config.layer_norm_eps": (config.text_config.layer_norm_eps, 1e-5),
    }
    for name, (found, right) in wanted.items():
        if found != right:
            raise ConversionError(
                f"{path}: {name} is {found!r}; with projection_dim={width}, X-CLIP has {right!r}"
            )
    return spec


def xclip_json(config: ModelConfig) -> dict[str, Any]:
    """The config.json of a transformers XCLIPModel."""
    assert isinstance(config.spec, DualEncoderSpec)
    (method,) = build_methods(config.methods)
    width, fields = config.spec.embed_dim, clip_json(config.spec)
    fields["vision_config"] |= {
        "num_frames": config.frames,
        "mit_hidden_size": width,
        "mit_intermediate_size": 4 * width,
        "mit_num_hidden_layers": method.mit_layers,  # type: ignore[attr-defined]
        "mit_num_attention_heads": heads_of(width),
    }
    return fields | {
        "architectures": ["XCLIPModel"],
        "model_type": "xclip",
        "prompt_layers": method.prompt_layers,  # type: ignore[attr-defined]
        "prompt_num_attention_heads": heads_of(width),
    }
