"""Reads specs from files and configs, and checks that they are within bounds and fit together."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vlt.models.activations import ACTIVATIONS
from vlt.models.spec import (
    BLIP_KINDS,
    JOINT_KINDS,
    MODEL_KINDS,
    BertSpec,
    BlipSpec,
    ChatSpec,
    DualEncoderSpec,
    EncoderSpec,
    PoolerSpec,
    QFormerSpec,
    Spec,
    TextSpec,
    VisionSpec,
    with_visual,
)
from vlt.pytrees.fields import from_values, near, shown

# Least and greatest that a file may ask for: far beyond any model, yet built in seconds.
LIMITS: dict[str, tuple[float, float]] = {
    "image_size": (1, 4096),
    "patch_size": (1, 4096),
    "width": (1, 2**16),
    "layers": (1, 128),
    "heads": (1, 2**10),
    "mlp_width": (1, 2**18),
    "temporal_frames": (0, 2**12),
    "context": (2, 2**14),
    "vocab": (2, 2**22),
    "source_width": (1, 2**16),
    "embed_dim": (0, 2**16),
    "norm_eps": (0, 1),
    "logit_cap": (0, 1e4),
    "fixed_scale": (0, 1e4),
    "init_std": (0, 100),
    "dropout": (0, 0.99),
    "rotary_base": (1, 1e9),
    "queries": (1, 2**12),
    "cross_every": (1, 128),
    "fusion_layer": (0, 127),
    "token_types": (0, 2**10),
    "source_norm_eps": (0, 1),
    "read": (1, 128),
}
POOLS = ("cls", "mean", "token_mean", "attention")
READOUTS = ("highest", "last", "end")
POSITIONS = ("learned", "sinusoid")
ROPES = ("", "pe", "eva")
CONNECTORS = ("linear", "mlp", "qformer")
VIDEO_TOKENS = ("mean", "st_pool", "frames")
CLASS_PLACES = ("first", "last", "none")
CHOICES = {
    "pool": POOLS,
    "readout": READOUTS,
    "positions": POSITIONS,
    "rope": ROPES,
    "activation": tuple(ACTIVATIONS),
    "connector": CONNECTORS,
    "tokens": VIDEO_TOKENS,
    "cls": CLASS_PLACES,
}
MOST_TOKENS = 2**20  # patches of a video


def spec_from_dict(fields: Any) -> Spec:
    """Inverse of `to_dict`.

    Raises:
        ValueError: a field is missing, unknown, of another type or out of range; says which.
    """
    kind: type[Spec] = DualEncoderSpec
    own = {each.kind: each for each in (ChatSpec, EncoderSpec)}
    if isinstance(fields, Mapping) and fields.get("kind") in own:
        kind = own[fields["kind"]]
        fields = {name: x for name, x in fields.items() if name != "kind"}
    elif isinstance(fields, Mapping) and "kind" in fields:
        kind = BlipSpec
    spec = from_values(kind, fields, "spec")
    _check_numbers("spec", spec)
    _check_vision(spec.visual)
    if isinstance(spec, EncoderSpec):
        return spec
    _check_text(spec)
    if isinstance(spec, ChatSpec):
        _check_chat(spec)
    if spec.kind not in MODEL_KINDS:
        known = (*BLIP_KINDS, ChatSpec.kind, EncoderSpec.kind)
        raise ValueError(f"spec.kind={shown(spec.kind)}{near(spec.kind, known)}")
    if bool(spec.embed_dim) != (spec.kind in JOINT_KINDS):
        raise ValueError(
            f"spec.embed_dim of a {spec.kind} must be "
            + (">= 1" if spec.kind in JOINT_KINDS else "0, since it has no joint space")
            + f", got {spec.embed_dim}"
        )
    for name, tower in (("visual", spec.visual), ("text", spec.text)):
        projected = getattr(tower, "projection", True) or not spec.embed_dim
        if not projected and tower.width != spec.embed_dim:
            raise ValueError(
                f"spec.{name}.projection=False: embed_dim is {spec.embed_dim}, the tower "
                f"{tower.width} wide"
            )
    if isinstance(spec, BlipSpec) and spec.kind != "retriever":
        for name in ("frame_scores", "masked_words"):
            if getattr(spec, name):
                raise ValueError(f"spec.{name} is of a retriever, this is a {spec.kind}")
    return spec


def _check_numbers(where: str, part: Any) -> None:
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if dataclasses.is_dataclass(value):
            _check_numbers(f"{where}.{field.name}", value)
        low, high = LIMITS.get(field.name, (None, None))
        absent = isinstance(part, QFormerSpec) and (part.vocab, part.context) == (0, 0)
        if absent and field.name in ("vocab", "context"):
            continue
        if isinstance(part, PoolerSpec) and (field.name, value) == ("mlp_width", 0):
            continue
        if low is not None and not low <= value <= high:
            raise ValueError(
                f"{where}.{field.name} must be between {low} and {high}, got {shown(value)}"
            )
        if field.name == "heads" and part.width % value:
            raise ValueError(f"{where}.heads={value} does not divide width={part.width}")
        if field.name in CHOICES and value not in CHOICES[field.name]:
            raise ValueError(
                f"{where}.{field.name}={shown(value)}{near(value, CHOICES[field.name])}"
            )


def _check_vision(visual: VisionSpec) -> None:
    _check_positions(visual)
    _check_pool(visual)
    _check_stages(visual)
    if visual.image_size < visual.patch_size:
        raise ValueError(
            f"spec.visual.patch_size={visual.patch_size} is more than "
            f"image_size={visual.image_size}"
        )
    if visual.patches * max(visual.temporal_frames, 1) > MOST_TOKENS:
        raise ValueError(
            f"spec.visual: image_size={visual.image_size} and patch_size={visual.patch_size} make "
            f"{visual.patches} patches of each frame; at most {MOST_TOKENS} of a video are taken"
        )


def _check_pool(visual: VisionSpec) -> None:
    """Raises ValueError if attention pooling lacks its sizes, or its options are set without it."""
    attention = visual.pool == "attention"
    if attention != (visual.pooler is not None):
        needed = "needs" if attention else "has no use for"
        raise ValueError(f"spec.visual.pool={visual.pool!r} {needed} spec.visual.pooler")
    if visual.class_token and not attention:
        raise ValueError("spec.visual.class_token is of a tower with pool='attention'")


def _check_positions(visual: VisionSpec) -> None:
    """Raises ValueError if a fixed table of positions or `rope` does not fit the other fields."""
    if visual.positions == "sinusoid" and visual.cls:
        raise ValueError(
            "spec.visual.positions='sinusoid' has no row for a class token; set "
            f"spec.visual.pool={' or '.join(map(repr, POOLS[1:3]))}"
        )
    if visual.joint and (visual.positions != "sinusoid" or visual.temporal_frames):
        raise ValueError(
            "spec.visual.joint=True needs positions='sinusoid' and temporal_frames=0; frames of "
            "learned positions attend together with temporal_frames >= 1"
        )
    if visual.rope and visual.together:
        raise ValueError(
            f"spec.visual.rope={visual.rope!r}: places are those in one frame, and this tower "
            "holds the patches of all in one group; set joint=False and temporal_frames=0"
        )
    if visual.rope and visual.width // visual.heads % 4:
        raise ValueError(
            f"spec.visual.heads={visual.heads}: heads of {visual.width // visual.heads} channels; "
            "rotary attention turns pairs of them by row and by column"
        )


def _check_stages(visual: VisionSpec) -> None:
    """Raises ValueError if the stages do not divide up the blocks, or the tower lacks what they
    need or has what their groups would drop."""
    stages = visual.stages
    if not stages:
        return
    if len(stages) not in (2, 3) or min(stages) < 1 or sum(stages) != visual.layers:
        raise ValueError(
            f"spec.visual.stages={shown(stages)}: numbers of blocks within frames, along time and, "
            f"if any, over all patches, each >= 1, must add up to layers={visual.layers}"
        )
    if visual.cls or visual.joint or visual.pre_norm or not visual.temporal_frames:
        raise ValueError(
            f"spec.visual.stages={shown(stages)} need a tower without class token (pool), "
            "joint=False, pre_norm=False and temporal_frames >= 1"
        )


def _check_text(spec: Spec) -> None:
    text = spec.text
    if isinstance(text, TextSpec):
        for name in ("pad_id", "end_id"):
            if not 0 <= getattr(text, name) < text.vocab:
                raise ValueError(f"spec.text.{name}={getattr(text, name)}: 0 to {text.vocab - 1}")
        if text.positions == "sinusoid" and text.width % 2:
            raise ValueError(
                f"spec.text.positions='sinusoid' has a sine and a cosine each: width={text.width} "
                "must be even"
            )
        if text.class_token and text.readout != "last":
            raise ValueError(
                f"spec.text.class_token=True needs readout='last', got {text.readout!r}"
            )
    if not isinstance(text, BertSpec):
        return
    _check_fusion(spec, text)
    if text.source_width != spec.visual.width:
        raise ValueError(
            f"spec.text.source_width must be the vision tower's width, {spec.visual.width}, got "
            f"{text.source_width}"
        )
    masked = isinstance(spec, BlipSpec) and spec.masked_words
    for name in ("decode_id", "encode_id", "end_id", *["mask_id"] * masked):
        value = getattr(text, name)
        if not 0 <= value < text.vocab:
            raise ValueError(
                f"spec.text.{name} must be between 0 and {text.vocab - 1}, got {value}"
            )


def _check_fusion(spec: Spec, text: BertSpec) -> None:
    if text.fusion_layer >= text.layers:
        raise ValueError(
            f"spec.text.fusion_layer={text.fusion_layer} must be below layers={text.layers}, or no "
            "layer reads the video"
        )
    if spec.kind == "answerer" and text.fusion_layer:
        check_question_width(text.width, spec.visual.width)


def check_question_width(text: int, visual: int) -> None:
    """Raises ValueError if a decoder that starts as layers of UMT's question encoder cannot read
    that encoder's states."""
    if text != visual:
        raise ValueError(
            f"the text model is {text} wide, the vision tower {visual}: UMT's decoder reads states "
            "of questions by layers made for tokens of videos, so both must be the same"
        )


def _check_chat(spec: ChatSpec) -> None:
    """Raises ValueError if the parts of a chat model do not fit each other."""
    visual, text = spec.visual, spec.text
    if text.width // text.heads % 2:
        raise ValueError(
            f"spec.text.heads={text.heads}: heads of {text.width // text.heads} channels; rotary "
            "attention turns pairs of them"
        )
    for name in ("start_id", "end_id"):
        if not 0 <= getattr(text, name) < text.vocab:
            raise ValueError(f"spec.text.{name}={getattr(text, name)}: 0 to {text.vocab - 1}")
    if (spec.connector == "qformer") != (spec.qformer is not None):
        needed = "needs its sizes, spec.qformer" if spec.qformer is None else "has no spec.qformer"
        raise ValueError(f"spec.connector={spec.connector!r} {needed}")
    if spec.qformer is not None and spec.qformer.source_width != visual.width:
        raise ValueError(
            f"spec.qformer.source_width={spec.qformer.source_width}: the vision tower's width is "
            f"{visual.width}"
        )
    if spec.read > visual.layers:
        raise ValueError(f"spec.read={spec.read}: the vision tower has {visual.layers} blocks")
    if spec.cls != "none" and (not visual.cls or spec.tokens == "st_pool"):
        why = "means over patches" if visual.cls else "a tower without class token"
        raise ValueError(f"spec.cls={spec.cls!r}: {why} take spec.cls='none'")
    if spec.tokens != "frames" and visual.temporal_frames and not visual.stages:
        raise ValueError(
            f"spec.tokens={spec.tokens!r}: a tower that holds the patches of all frames in one "
            "group takes spec.tokens='frames'"
        )


def with_video(spec: Spec, section: Mapping[str, Any], frames: int) -> Spec:
    """A spec that reads a video as a config's `model.video` says.

    section: for a chat model, `tokens` and `cls` as in `ChatSpec`, and `joint`, whether the patches
    of all `frames` attend together; for a tower with fixed positions (UMT), `joint` and `pool` as
    in `VisionSpec`. If it is empty, the spec is returned as it is.

    Raises:
        ValueError: a field or value is unknown, or the model is of another kind.
    """
    changed = dict(section)
    if not changed:
        return spec
    if spec.visual.positions == "sinusoid" and not isinstance(spec, ChatSpec):
        return _with_fixed_positions(spec, changed)
    if not isinstance(spec, ChatSpec):
        raise ValueError(f"model.video={changed} is for chat models and UMT, this is a {spec.kind}")
    joint = changed.pop("joint", False)
    if unknown := sorted(changed.keys() - {"tokens", "cls"}):
        known = near(unknown[0], ("tokens", "cls", "joint"))
        raise ValueError(f"model.video has no field {unknown[0]!r}{known}")
    spec = dataclasses.replace(spec, **changed)
    return spec_from_dict((with_visual(spec, temporal_frames=frames) if joint else spec).to_dict())


def _with_fixed_positions(spec: Spec, changed: Mapping[str, Any]) -> Spec:
    known = ("joint", "pool")
    if unknown := sorted(changed.keys() - set(known)):
        raise ValueError(f"model.video has no field {unknown[0]!r}{near(unknown[0], known)}")
    fields = spec.to_dict()
    return spec_from_dict(fields | {"visual": fields["visual"] | dict(changed)})
