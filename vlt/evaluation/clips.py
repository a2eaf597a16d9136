"""Checks that the clips of a data section have the shape that the model expects."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from absl import logging

from vlt.data.manifests.resources import is_made
from vlt.data.pipeline import VideoData
from vlt.data.video.transform import final_size
from vlt.models.spec import Spec

# Keys of a data section, for training or evaluation; also `classes` where labels have a file.
DATA_KEYS = (
    "manifest", "batch_size", "sampler", "transform", "captions", "clean", "max_words", "prefix",
    "group", "cache", "on_error", "max_error_rate", "allow_truncated", "backend",
)  # fmt: skip


def fitted(section: Mapping[str, Any], spec: Spec) -> Mapping[str, Any]:
    """The section, with a transform to the model's size if it reads real videos and has none.

    Generated clips already have their model's size, so their sections have no transform, nor keys
    by which a command could give them one.
    """
    if section["transform"] or is_made(section["manifest"]):
        return section
    side = spec.visual.image_size
    logging.warning("%s: frames are resized and cut to %d x %d", section["manifest"], side, side)
    return dict(section) | {"transform": {"resize": side, "crop": side}}


@contextlib.contextmanager
def named_section(name: str) -> Iterator[None]:
    """Prefixes a ValueError with the section of the config at fault: data.train or evals.NAME."""
    try:
        yield
    except ValueError as error:
        told = str(error).removeprefix(f"{name.rpartition('.')[2]}.")
        joint = "." if re.match(r"[\w.]+=", told) else ": "  # one of its keys, or all of it
        raise ValueError(f"{name}{joint}{told}") from error


def check_clips(section: Mapping[str, Any], spec: Spec, frames: int = 0) -> None:
    """Checks the clips that the sampler and the transform make of any video.

    frames: number of frames that the model expects; 0 accepts any.

    Raises:
        ValueError: the section lacks a key, or the clips have other numbers of frames or pixels.
    """
    if missing := [key for key in DATA_KEYS if key not in section]:
        raise ValueError(f"needs {', '.join(missing)}")
    sampled = section["sampler"].get("frames")
    if frames and sampled != frames:
        raise ValueError(
            f"sampler.frames={sampled}, but model.frames={frames}: set both to the same number"
        )
    step, size = final_size(section["transform"])
    if step:
        _check_size(f"transform.{step} makes frames", size, spec)


def check_first_clip(data: VideoData, spec: Spec) -> None:
    """Checks the first clip of a section whose transform leaves the size of frames to the videos.

    Raises:
        ValueError: its frames do not have the model's size, or no video can be read.
    """
    if not final_size(data.transform)[0]:
        height, width = data.clip_shape()[1:3]
        what = f"the first clip of {data.manifest} has frames"
        _check_size(what, (height, width), spec, "; transform.resize and transform.crop change it")


def _check_size(what: str, size: tuple[int, int], spec: Spec, advice: str = "") -> None:
    side = spec.visual.image_size
    if size != (side, side):
        raise ValueError(
            f"{what} of {size[0]} x {size[1]} pixels, but the model is for {side} x {side}{advice}"
        )
