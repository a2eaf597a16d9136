"""Frame transforms on the host: uint8 [t, H, W, 3] in and out, one random draw per clip.

A transform is a plain dict in the config. Its steps run in this order, whatever the dict's:

| key | value | does |
|---|---|---|
| `rand_augment` | dict(ops=4, magnitude=7, deviation=0.5) or {} | random changes of whole frames |
| `resize` | short side, or (height, width) | resizes; the long side is int(size * long / short) |
| `random_resized_crop` | size, or dict(size=, area=(0.08, 1), aspect=(3/4, 4/3)) | a random part |
| `multi_scale_crop` | size | one of fixed parts, of one of ten shapes, resized |
| `random_crop` | size | a random square, not resized |
| `three_crops` | size | three squares along the longer side, each of all frames |
| `crop` | size | the central square |
| `flip` | probability | mirrors left and right |
| `jitter` | dict(brightness=, contrast=, saturation=, hue=, ...) | changes colours, see below |
| `grayscale` | probability | removes colours |
| `blip_augment` | dict(ops=2, magnitude=5) or {} | as `rand_augment`, by BLIP's setting |
| `interpolation` | 'bicubic' (default), 'bilinear', 'nearest', 'lanczos' | how to resample |
| `per_frame` | False (default) or True | separate draws for each frame of a clip |

Resizing is Pillow's, with antialiasing: what torchvision does to PIL images and the papers report.
All frames of a clip get the same crop, mirror, colours and drawn operations, except with
`per_frame`, as in the training of Token Mixing's question answering. `jitter` may have a
`probability` of being applied, drawn once per clip, and a `per_frame` of its own, with which each
frame changes by different amounts: the published setting that MSTA follows has both. Pixels stay
uint8; subtracting the mean and dividing by the deviation happen on the device, where the model's
preprocessing is known.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

from vlt.data.video import errors
from vlt.data.video.rand_augment import (
    BLIP_DEFAULTS,
    DEFAULTS,
    blip_augment,
    check_augment,
    rand_augment,
)

INTERPOLATIONS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
}
SCALES = (1.0, 0.875, 0.75, 0.66)  # of the short side, in `multi_scale_crop`
SCALE_GAP = 1  # most steps between the scales of height and width
CROPS = 3  # of `three_crops`
# Steps that give all frames one size, the last to run listed first.
FINAL_STEPS = ("crop", "three_crops", "random_crop", "multi_scale_crop", "random_resized_crop")


def apply_transform(spec: Mapping[str, Any], frames: np.ndarray, seed: int) -> np.ndarray:
    """Runs the steps of `spec` on a clip: uint8 [t, H, W, 3] -> uint8 [t, h, w, 3].

    The same seed gives the same pixels. With `three_crops` there are 3 t frames, crop by crop.

    Raises: ValueError for an unknown step or value, or a crop larger than the frames.
    """
    check_transform(spec)
    rng = np.random.default_rng(seed)
    method = INTERPOLATIONS[spec.get("interpolation", "bicubic")]

    def run(frames: np.ndarray) -> np.ndarray:
        for name, step in _STEPS.items():
            if name in spec:
                frames = step(frames, spec[name], rng, method)
        return np.ascontiguousarray(frames)

    if spec.get("per_frame"):
        return np.concatenate([run(frame[None]) for frame in frames])
    return run(frames)


def check_transform(spec: Mapping[str, Any]) -> None:
    """Raises ValueError unless every key of `spec` is known and its values have the right form."""
    for name in spec:
        if name not in (*_STEPS, *_OPTIONS):
            raise errors.unknown("transform step", name, (*_STEPS, *_OPTIONS))
    interpolation = spec.get("interpolation", "bicubic")
    if interpolation not in INTERPOLATIONS:
        raise errors.unknown("interpolation", interpolation, INTERPOLATIONS)
    check_augment("rand_augment", spec.get("rand_augment", {}), DEFAULTS)
    check_augment("blip_augment", spec.get("blip_augment", {}), BLIP_DEFAULTS)
    jitter = spec.get("jitter", {})
    for name in jitter:
        if name not in (*_JITTERS, *_JITTER_OPTIONS):
            raise errors.unknown("jitter", name, (*_JITTERS, *_JITTER_OPTIONS))
    given = {name: spec.get(name, 0) for name in ("flip", "grayscale")}
    for name, value in (given | {"jitter probability": jitter.get("probability", 0)}).items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be a probability between 0 and 1, got {value!r}")
    if not 0 <= jitter.get("hue", 0) <= 0.5:
        raise ValueError(f"jitter hue must be between 0 and 0.5, got {jitter['hue']!r}")
    if spec.get("per_frame") and "three_crops" in spec:
        raise ValueError("per_frame and three_crops cannot be combined")


def final_size(spec: Mapping[str, Any]) -> tuple[str, tuple[int, int]]:
    """The step that decides the size of frames, and (height, width); '' where no step does."""
    for step in FINAL_STEPS:
        if step in spec:
            value = spec[step]
            size = value["size"] if hasattr(value, "items") else value
            return step, (size, size)
    resized = spec.get("resize")
    if isinstance(resized, (list, tuple)):
        return "resize", (resized[0], resized[1])
    return "", (0, 0)


def with_side(spec: Mapping[str, Any], side: int) -> dict[str, Any]:
    """The steps with all sizes scaled, so that frames have sides of `side`. Steps that leave the
    size of frames to the videos stay as they are."""
    step, (height, width) = final_size(spec)

    def scaled(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            pairs = zip(value, (height, width), strict=True)
            return tuple(round(each * side / old) for each, old in pairs)
        if hasattr(value, "items"):
            return {**value, "size": scaled(value["size"])}
        return round(value * side / min(height, width))

    sizes = (*FINAL_STEPS, "resize") if step else ()
    return {name: scaled(value) if name in sizes else value for name, value in spec.items()}


def _resize(frames, size, rng, method):
    height, width = frames.shape[1:3]
    if isinstance(size, int):
        short = min(height, width)
        size = (int(size * height / short), int(size * width / short))
    return _resize_to(frames, tuple(size), method)


def _resize_to(frames: np.ndarray, size: tuple[int, int], method: int) -> np.ndarray:
    if frames.shape[1:3] == size:
        return frames
    out = np.empty((len(frames), *size, 3), np.uint8)
    for i, frame in enumerate(frames):
        out[i] = np.asarray(Image.fromarray(frame).resize(size[::-1], method))
    return out


def _random_resized_crop(frames, spec, rng, method):
    spec = {"size": spec} if isinstance(spec, int) else spec
    area, aspect = spec.get("area", (0.08, 1.0)), spec.get("aspect", (3 / 4, 4 / 3))
    top, left, height, width = _random_part(frames.shape[1], frames.shape[2], area, aspect, rng)
    part = frames[:, top : top + height, left : left + width]
    return _resize_to(part, (spec["size"], spec["size"]), method)


def _random_part(height, width, area, aspect, rng) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a part whose share of the area is uniform in `area` and whose
    width / height is log-uniform in `aspect`; after ten misfits, a central part."""
    for _ in range(10):
        part = height * width * rng.uniform(*area)
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        w, h = round(math.sqrt(part * ratio)), round(math.sqrt(part / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = rng.integers(0, (height - h, width - w), endpoint=True)
            return int(top), int(left), h, w
    ratio = min(max(width / height, aspect[0]), aspect[1])
    h, w = min(height, round(width / ratio)), min(width, round(height * ratio))
    return (height - h) // 2, (width - w) // 2, h, w


def _multi_scale_crop(frames, size, rng, method):
    """Crops a part whose sides are drawn from `SCALES` of the short side, at a corner or centre;
    offsets are multiples of a quarter of the room, in whole pixels, as in ViFi-CLIP's code."""
    height, width = frames.shape[1:3]
    sides = [int(min(height, width) * scale) for scale in SCALES]
    shapes = [
        (h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= SCALE_GAP
    ]
    h, w = shapes[rng.integers(len(shapes))]
    down, right = ((0, 0), (0, 4), (4, 0), (4, 4), (2, 2))[rng.integers(5)]
    top, left = down * ((height - h) // 4), right * ((width - w) // 4)
    return _resize_to(frames[:, top : top + h, left : left + w], (size, size), method)


def _random_crop(frames, size, rng, method):
    room = _room(frames, size)
    top, left = rng.integers(0, room, endpoint=True)
    return frames[:, top : top + size, left : left + size]


def _centre_crop(frames, size, rng, method):
    top, left = (round(room / 2) for room in _room(frames, size))
    return frames[:, top : top + size, left : left + size]


def _three_crops(frames, size, rng, method):
    """Crops at both ends and the middle of the longer side, in the middle of the shorter one."""
    room = _room(frames, size)
    step, longer = max(room) // 2, int(room[1] >= room[0])
    crops = []
    for shift in (0, step, 2 * step):
        place = [room[0] // 2, room[1] // 2]
        place[longer] = shift
        crops.append(frames[:, place[0] : place[0] + size, place[1] : place[1] + size])
    return np.concatenate(crops)


def _room(frames: np.ndarray, size: int) -> tuple[int, int]:
    height, width = frames.shape[1:3]
    if min(height, width) < size:
        raise ValueError(f"cannot crop {size} x {size} from frames of {height} x {width}: resize")
    return height - size, width - size


def _flip(frames, probability, rng, method):
    return frames[:, :, ::-1] if rng.random() < probability else frames


def _jitter(frames, spec, rng, method):
    amounts = {name: value for name, value in spec.items() if name not in _JITTER_OPTIONS}
    if "probability" in spec and rng.random() >= spec["probability"]:
        return frames
    parts = frames[:, None] if spec.get("per_frame") else frames[None]
    return np.concatenate([_jitter_alike(part, amounts, rng) for part in parts])


def _jitter_alike(frames, amounts, rng):
    """torchvision's ColorJitter: factors uniform in 1 +- value (hue: +- value of a turn), the
    changes in random order."""
    changes = []
    for name, value in sorted(amounts.items()):
        low = -value if name == "hue" else max(0.0, 1 - value)
        high = value if name == "hue" else 1 + value
        changes.append((_JITTERS[name], rng.uniform(low, high)))
    order = rng.permutation(len(changes))
    out = np.empty_like(frames)
    for i, frame in enumerate(frames):
        image = Image.fromarray(frame)
        for change, amount in (changes[k] for k in order):
            image = change(image, amount)
        out[i] = image
    return out


def _grayscale(frames, probability, rng, method):
    if rng.random() >= probability:
        return frames
    gray = np.stack([np.asarray(Image.fromarray(frame).convert("L")) for frame in frames])
    return gray[..., None].repeat(3, axis=-1)


def _turn_hue(image: Image.Image, turn: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    shifted = np.asarray(hue) + np.array(int(turn * 255)).astype(np.uint8)
    return Image.merge("HSV", (Image.fromarray(shifted), saturation, value)).convert("RGB")


_JITTERS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "brightness": lambda image, factor: ImageEnhance.Brightness(image).enhance(factor),
    "contrast": lambda image, factor: ImageEnhance.Contrast(image).enhance(factor),
    "saturation": lambda image, factor: ImageEnhance.Color(image).enhance(factor),
    "hue": _turn_hue,
}
_JITTER_OPTIONS = ("probability", "per_frame")

_STEPS: dict[str, Callable[[np.ndarray, Any, np.random.Generator, int], np.ndarray]] = {
    "rand_augment": rand_augment,
    "resize": _resize,
    "random_resized_crop": _random_resized_crop,
    "multi_scale_crop": _multi_scale_crop,
    "random_crop": _random_crop,
    "three_crops": _three_crops,
    "crop": _centre_crop,
    "flip": _flip,
    "jitter": _jitter,
    "grayscale": _grayscale,
    "blip_augment": blip_augment,
}
_OPTIONS = ("interpolation", "per_frame")
