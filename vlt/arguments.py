"""Checks what users pass to the Python interface, videos and token ids, before a model sees it.

An array whose shape, axis order or scale is not the model's fails deep inside it or, worse, yields
vectors that look like any others. So each message says what was given and what is needed.
"""

import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vlt.models.spec import VisionSpec
from vlt.pytrees.fields import shown

NEEDED = "uint8 RGB or normalised float32 frames [b, t, H, W, 3] are needed"
LARGEST = 20.0  # normalised values are below 5; 8-bit ones go up to 255


def as_video(frames: Any, spec: VisionSpec) -> jax.Array:
    """uint8 or float32 [b, t, H, W, 3] from an array, or from lists of arrays of one shape.

    Accepts anything with numpy's or jax's array protocol.

    Raises:
        ValueError: another shape or type, no frames, or values that are not finite or too large.
    """
    video = frames if isinstance(frames, jax.Array) else _host_array(frames, NEEDED, "frames")
    if 0 in video.shape:
        raise ValueError(f"frames have shape {video.shape}, which holds none; {NEEDED}")
    if video.dtype not in (np.uint8, np.float32):
        raise ValueError(
            f"frames are {video.dtype}; uint8 RGB or normalised float32 is needed{_cast(video)}"
        )
    _check_shape(video.shape, spec.image_size)
    if _has_floats(video):
        _check_values(video)
    return jnp.asarray(video)


def as_paths(videos: Any) -> list[str] | None:
    """A list of the given path or paths of video files; None for what may be frames.

    Raises:
        ValueError: paths are mixed with something else.
    """
    if isinstance(videos, np.ndarray) and videos.dtype.kind in "OU":
        videos = videos.tolist()
    if isinstance(videos, (str, os.PathLike)):
        videos = [videos]
    if not isinstance(videos, (list, tuple)):
        return None
    are_paths = [isinstance(each, (str, os.PathLike)) for each in videos]
    if not any(are_paths):
        return None
    if not all(are_paths):
        other = videos[are_paths.index(False)]
        raise ValueError(f"{shown(other)} among paths of videos; give paths alone, or {NEEDED}")
    return [str(each) for each in videos]


def looks_unnormalised(video: jax.Array) -> bool:
    """Whether these are floats from 0 to 1, like pixels before mean and deviation are applied."""
    return _has_floats(video) and bool(video.min() >= 0) and bool(video.max() <= 1)


def _has_floats(video: Any) -> bool:
    return video.dtype == np.float32 and not isinstance(video, jax.core.Tracer)


def as_ids(ids: Any, vocab: int, context: int) -> jax.Array:
    """int32 [b, l] from whole numbers [b, l], l at most `context`.

    Raises:
        ValueError: another shape or type, no ids, or ids outside the vocabulary.
    """
    needed = f"token ids [b, l] are needed, whole numbers from 0 to {vocab - 1}, l <= {context}"
    ids = ids if isinstance(ids, jax.Array) else _host_array(ids, needed, "texts")
    if not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"token ids are {ids.dtype}; {needed}")
    hint = "; ids[None] is a batch of one" if ids.ndim == 1 else ""
    if ids.ndim != 2 or 0 in ids.shape or ids.shape[1] > context:
        raise ValueError(f"token ids have shape {ids.shape}; {needed}{hint}")
    if not isinstance(ids, jax.core.Tracer):
        host = np.asarray(ids)
        if (wrong := np.argwhere((host < 0) | (host >= vocab))).size:
            row, place = wrong[0]
            raise ValueError(f"token id {host[row, place]} at [{row}, {place}]; {needed}")
    return jnp.asarray(ids, jnp.int32)


def as_texts(texts: Any) -> list[str] | None:
    """A list of the given text or texts, from any sequence or array; None for possible token ids.

    Raises:
        ValueError: no text, texts mixed with something else, or characters without UTF-8 encoding.
    """
    if isinstance(texts, str):
        texts = [texts]
    if hasattr(texts, "dtype") and getattr(texts.dtype, "kind", "") in "OUST":
        texts = np.asarray(texts).tolist()
    if texts is None or isinstance(texts, (bytes, dict, set)) or not hasattr(texts, "__len__"):
        raise ValueError(f"texts are {shown(texts)}; a text, texts or token ids [b, l] are needed")
    if not len(texts):
        raise ValueError("no text; a text, texts or token ids [b, l] are needed")
    if not isinstance(texts, Sequence) or not any(isinstance(text, str) for text in texts):
        return None
    for place, text in enumerate(texts):
        check_text(text, f"text {place}")
    return list(texts)


def whole_number(name: str, value: Any) -> int:
    """The value as an int. Raises ValueError unless it is a whole number above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name} must be a whole number >= 1, got {shown(value)}")
    return int(value)


def check_text(text: Any, name: str) -> None:
    """Raises ValueError if `text` is not a text, or cannot be encoded as UTF-8."""
    if not isinstance(text, str):
        raise ValueError(f"{name} is {shown(text)}, of type {type(text).__name__}, not a text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} has half of a character at place {error.start}: {shown(text)}; it must be "
            "valid Unicode"
        ) from None


def _host_array(value: Any, needed: str, name: str) -> np.ndarray:
    if isinstance(value, (list, tuple)) and value and not isinstance(value[0], (int, float)):
        return _stacked([_host_array(each, needed, f"{name}[...]") for each in value], needed, name)
    try:
        array = np.asarray(value)
    except Exception as error:  # whatever another library's conversion raises
        raise ValueError(f"{name} are not an array ({error}); {needed}") from error
    if array.dtype == object or array.dtype.kind in "USV" or array.ndim == 0:
        raise ValueError(f"{name} are {shown(value)}, of type {type(value).__name__}; {needed}")
    return array


def _stacked(arrays: list[np.ndarray], needed: str, name: str) -> np.ndarray:
    for place, array in enumerate(arrays):
        if (array.shape, array.dtype) != (arrays[0].shape, arrays[0].dtype):
            raise ValueError(
                f"{name}[0] is {arrays[0].dtype} {arrays[0].shape}, {name}[{place}] is "
                f"{array.dtype} {array.shape}; {needed}, all alike"
            )
    return np.stack(arrays)


def _cast(video: Any) -> str:
    """The cast that corrects frames of another type, if their values are right as they are."""
    if video.dtype.kind in "iu":
        return "; frames.astype(np.uint8) is right where all are from 0 to 255"
    return "; frames.astype(np.float32) is right where they are normalised"


def _check_shape(shape: tuple[int, ...], side: int) -> None:
    if len(shape) == 5 and shape[2:] == (side, side, 3):
        return
    raise ValueError(
        f"frames have shape {shape}, but the tower takes ({side}, {side}, 3) of [b, t, H, W, 3]"
        + _hint(shape, side)
    )


def _hint(shape: tuple[int, ...], side: int) -> str:
    if len(shape) == 4:
        return "; the axis of videos is missing: frames[None] is a batch of one"
    if len(shape) != 5:
        return ""
    if shape[-1] == 3:
        return f"; resize the frames to {side} by {side}"
    for axis in (2, 1):
        if shape[axis] == 3:
            return f"; channels come first: np.moveaxis(frames, {axis}, -1) puts them last"
    changes = {4: "frames[..., :3] leaves RGB of RGBA", 1: "frames.repeat(3, -1) makes grey RGB"}
    return f"; there are {shape[-1]} channels: {changes.get(shape[-1], 'RGB is needed')}"


def _check_values(video: Any) -> None:
    """Checks floats, which enter the tower as they are."""
    low, high = float(video.min()), float(video.max())
    if not np.isfinite([low, high]).all():
        wrong = np.argwhere(~np.isfinite(np.asarray(video)))
        raise ValueError(
            f"frames hold {len(wrong)} values that are not finite, the first at "
            f"{wrong[0].tolist()}; {NEEDED}"
        )
    if max(-low, high) > LARGEST:
        raise ValueError(
            f"frames are float32 from {low:.4g} to {high:.4g}, so not normalised; give uint8, or "
            "(frames / 255 - model.module.mean) / model.module.std"
        )
