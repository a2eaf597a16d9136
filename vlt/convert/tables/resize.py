"""Adapts published weights to other sizes of images, videos and texts than in their training."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from vlt.convert.errors import ConversionError
from vlt.convert.files.arrays import Tensors
from vlt.model_io.folder import ModelConfig
from vlt.models.interpolation import resize_positions, resize_rows, resize_temporal
from vlt.models.leaf_names import FRAMES, PLACES, WORDS
from vlt.models.spec import DualEncoderSpec, with_visual

FEWEST_FRAMES = 2  # of a tower with frame embeddings, which serve to tell frames apart
# Settings that change a model's sizes, whatever its checkpoint says of them.
RESIZED = ("visual.image_size", "visual.temporal_frames", "text.context")


def resize(
    config: ModelConfig, leaves: Tensors, settings: Mapping[str, Any], notes: list[str]
) -> tuple[ModelConfig, Tensors]:
    """Gives the model the sizes of `RESIZED` that are set, and adds a note on each.

    Raises ConversionError for sizes that this model can't have.
    """
    steps = (resize_image, resize_frames, cut_context)
    for key, step in zip(RESIZED, steps, strict=True):
        if key in settings:
            config, leaves, note = step(config, leaves, settings[key])
            notes.append(note)
    return config, leaves


def resize_image(
    config: ModelConfig, leaves: Tensors, size: int
) -> tuple[ModelConfig, Tensors, str]:
    """The model for square images of `size` pixels, and a note on what was done.

    Raises ConversionError where `size` is not a whole number of patches.
    """
    visual = config.spec.visual
    if size < visual.patch_size or size % visual.patch_size:
        raise ConversionError(
            f"--set visual.image_size={size}: not a multiple of the patches' {visual.patch_size}"
        )
    pixels: Mapping[str, Any] = config.preprocessing | {"image_size": size}
    spec = with_visual(config.spec, image_size=size)
    config = dataclasses.replace(config, spec=spec, preprocessing=dict(pixels))
    if visual.positions != "learned":
        return config, leaves, f"positions: fixed ones, of frames of {size} pixels"
    kind = "bilinear" if visual.rope == "pe" else "triangle" if visual.stages else "bicubic"
    table = resize_positions(leaves[PLACES], size // visual.patch_size, visual.cls, kind)
    note = f"position embedding: resized from {visual.image_size} pixels"
    if visual.rope == "pe":
        note += "; rotary places go on, to more than the weights were trained with"
    return config, leaves | {PLACES: table}, note


def resize_frames(
    config: ModelConfig, leaves: Tensors, frames: int
) -> tuple[ModelConfig, Tensors, str]:
    """The ViCLIP for videos of up to `frames` frames, or the VideoPrism for that many, and a note.

    A CLIP becomes a ViCLIP with frame embeddings of zeros, as ViCLIP's training starts: on one
    frame it computes what the CLIP does.
    Raises ConversionError: not a CLIP, one with methods, or too few frames.
    """
    key = f"--set visual.temporal_frames={frames}"
    if config.spec.kind != "dual_encoder" or config.methods:
        what = ", ".join(config.methods) or config.spec.kind
        raise ConversionError(f"{key}: is for CLIP without methods, this is {what}")
    if frames < FEWEST_FRAMES:
        raise ConversionError(
            f"--set visual.temporal_frames must be >= {FEWEST_FRAMES}, got {frames}"
        )
    old = config.spec.visual.temporal_frames
    if config.spec.visual.stages:
        table = resize_rows(leaves[FRAMES], frames)
        config = dataclasses.replace(config, spec=with_visual(config.spec, temporal_frames=frames))
        return config, leaves | {FRAMES: table}, f"frame embeddings: resized from {old} frames"
    if old:
        table = resize_temporal(leaves[FRAMES], frames)
    else:
        table = np.zeros((frames, config.spec.visual.width), np.float32)
    spec = with_visual(config.spec, temporal_frames=frames)
    config = dataclasses.replace(config, family="viclip", spec=spec, frame_norm=False)
    note = f"frame embeddings: {f'resized from {old} frames' if old else 'zeros'}"
    return config, leaves | {FRAMES: table}, note


def cut_context(
    config: ModelConfig, leaves: Tensors, context: int
) -> tuple[ModelConfig, Tensors, str]:
    """The model for texts of up to `context` tokens, with the first positions alone, and a note.

    Raises ConversionError: not a CLIP, one that is read at its last position, or a `context` below
    2 or above the number of positions.
    """
    spec, key = config.spec, f"--set text.context={context}"
    if not isinstance(spec, DualEncoderSpec):
        raise ConversionError(f"{key}: is for CLIP, this is {spec.kind}")
    old = spec.text.context
    if spec.text.whole:
        raise ConversionError(f"{key}: the text tower reads the last of {old} tokens, all of them")
    if not 2 <= context <= old:
        raise ConversionError(f"{key}: the text tower has positions for 2 to {old} tokens")
    spec = dataclasses.replace(spec, text=dataclasses.replace(spec.text, context=context))
    config = dataclasses.replace(config, spec=spec)
    tables = {WORDS: leaves[WORDS][:context]} if WORDS in leaves else {}  # else it is fixed
    return config, leaves | tables, f"text positions: first of {old}"
