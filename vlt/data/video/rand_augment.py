"""RandAugment (Cubuk et al., arXiv:1909.13719) on the frames of a clip, by two papers' settings.

Operations are drawn with replacement; each is left out half of the time. An applied operation has
a magnitude m and a sign, which all frames of a clip share.

TempMe's is "rand-m7-n4-mstd0.5-inc1" of Pillow's own operations: four of the fifteen, m from
N(7, 0.5), clipped to [0, 10]. Ranges: rotation 30 m/10 degrees, colour, contrast, brightness and
sharpness by the factor 1 +- 0.9 m/10, shear 0.3 m/10, translation 0.45 m/10 of the side, posterize
to 4 - int(4 m/10) bits, solarize from 256 - int(256 m/10), add int(110 m/10) to values below 128.

BLIP's, for question answering: two of ten, m = 5. It differs in translation by 10 m/10 pixels, the
factor 0.1 + 1.8 m/10 of brightness and sharpness (1 at m = 5: nothing changes), and bilinear
resampling.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from vlt.data.video import errors

DEFAULTS = {"ops": 4, "magnitude": 7.0, "deviation": 0.5}
BLIP_DEFAULTS = {"ops": 2, "magnitude": 5.0}
PROBABILITY = 0.5  # of applying an operation that was drawn
LARGEST = 10.0  # magnitude
FILL = (128, 128, 128)  # where a geometric operation uncovers the canvas

# (frame, magnitude in [0, 10], sign, Image.Resampling) -> frame
Operation = Callable[[Image.Image, float, int, int], Image.Image]


def rand_augment(
    frames: np.ndarray, spec: Mapping[str, Any], rng: np.random.Generator, method: int
) -> np.ndarray:
    """Applies drawn operations to a clip: uint8 [t, H, W, 3] -> uint8 [t, H, W, 3].

    Args:
      spec: what differs from `DEFAULTS`: ops (number drawn), magnitude (mean, 0 to 10), deviation
        (standard deviation of the magnitude).
      method: Pillow's resampling for the geometric operations.
    """
    drawn = draw(rng, OPERATIONS, **(DEFAULTS | dict(spec)))
    return _apply(frames, OPERATIONS, drawn, method)


def blip_augment(
    frames: np.ndarray, spec: Mapping[str, Any], rng: np.random.Generator, method: int
) -> np.ndarray:
    """The same by BLIP's setting. spec: what differs from `BLIP_DEFAULTS`."""
    drawn = draw(rng, BLIP_OPERATIONS, **(BLIP_DEFAULTS | dict(spec)))
    return _apply(frames, BLIP_OPERATIONS, drawn, Image.Resampling.BILINEAR)


def _apply(
    frames: np.ndarray,
    operations: Mapping[str, Operation],
    drawn: Sequence[tuple[str, float, int]],
    method: int,
) -> np.ndarray:
    if not drawn:
        return frames
    out = np.empty_like(frames)
    for i, frame in enumerate(frames):
        image = Image.fromarray(frame)
        for name, magnitude, sign in drawn:
            image = operations[name](image, magnitude, sign, method)
        out[i] = image
    return out


def draw(
    rng: np.random.Generator,
    operations: Mapping[str, Operation],
    ops: int,
    magnitude: float,
    deviation: float = 0.0,
) -> list[tuple[str, float, int]]:
    """Draws the operations to apply, in order: (operation, magnitude, sign)."""
    drawn = []
    for name in rng.choice(list(operations), ops):
        if rng.random() < PROBABILITY:
            strength = float(np.clip(rng.normal(magnitude, deviation), 0, LARGEST))
            drawn.append((str(name), strength, 1 if rng.random() < 0.5 else -1))
    return drawn


def check_augment(step: str, spec: Mapping[str, Any], defaults: Mapping[str, float]) -> None:
    """Raises ValueError for an option that is not in `defaults` or a value out of range."""
    for name in spec:
        if name not in defaults:
            raise errors.unknown(f"{step} option", name, defaults)
    values = {**defaults, **spec}
    ops, magnitude, deviation = values["ops"], values["magnitude"], values.get("deviation", 0.0)
    if not (isinstance(ops, int) and ops >= 1):
        raise ValueError(f"{step} ops must be a whole number >= 1, got {ops!r}")
    if not 0 <= magnitude <= LARGEST:
        raise ValueError(f"{step} magnitude must be between 0 and {LARGEST:g}, got {magnitude!r}")
    if not deviation >= 0:
        raise ValueError(f"{step} deviation must be >= 0, got {deviation!r}")


def _identity(image, magnitude, sign, method):
    return image


def _auto_contrast(image, magnitude, sign, method):
    return ImageOps.autocontrast(image)


def _equalize(image, magnitude, sign, method):
    return ImageOps.equalize(image)


def _invert(image, magnitude, sign, method):
    return ImageOps.invert(image)


def _rotate(image, magnitude, sign, method):
    return image.rotate(sign * 30 * magnitude / LARGEST, method, fillcolor=FILL)


def _posterize(image, magnitude, sign, method):
    # Pillow's own posterize refuses to keep no bits, as magnitude 10 asks.
    step = 2 ** (4 + int(4 * magnitude / LARGEST))
    return image.point([value // step * step for value in range(256)] * 3)


def _solarize(image, magnitude, sign, method):
    return ImageOps.solarize(image, 256 - int(256 * magnitude / LARGEST))


def _solarize_add(image, magnitude, sign, method):
    added = int(110 * magnitude / LARGEST)
    table = [min(255, value + added) if value < 128 else value for value in range(256)]
    return image.point(table * 3)


def _enhance(kind, image, magnitude, sign, method):
    return kind(image).enhance(1 + sign * 0.9 * magnitude / LARGEST)


def _blip_enhance(kind, image, magnitude, sign, method):
    return kind(image).enhance(0.1 + 1.8 * magnitude / LARGEST)


def _shear_x(image, magnitude, sign, method):
    return _affine(image, (1, sign * 0.3 * magnitude / LARGEST, 0, 0, 1, 0), method)


def _shear_y(image, magnitude, sign, method):
    return _affine(image, (1, 0, 0, sign * 0.3 * magnitude / LARGEST, 1, 0), method)


def _translate_x(image, magnitude, sign, method):
    return _affine(image, (1, 0, sign * 0.45 * magnitude / LARGEST * image.width, 0, 1, 0), method)


def _translate_y(image, magnitude, sign, method):
    return _affine(image, (1, 0, 0, 0, 1, sign * 0.45 * magnitude / LARGEST * image.height), method)


def _translate_x_pixels(image, magnitude, sign, method):
    return _affine(image, (1, 0, sign * magnitude, 0, 1, 0), method)


def _translate_y_pixels(image, magnitude, sign, method):
    return _affine(image, (1, 0, 0, 0, 1, sign * magnitude), method)


def _affine(image: Image.Image, matrix: tuple[float, ...], method: int) -> Image.Image:
    """The image whose pixel (x, y) is that of `image` at matrix (x, y, 1)."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix, method, fillcolor=FILL)


OPERATIONS: dict[str, Operation] = {
    "auto_contrast": _auto_contrast,
    "equalize": _equalize,
    "invert": _invert,
    "rotate": _rotate,
    "posterize": _posterize,
    "solarize": _solarize,
    "solarize_add": _solarize_add,
    "color": functools.partial(_enhance, ImageEnhance.Color),
    "contrast": functools.partial(_enhance, ImageEnhance.Contrast),
    "brightness": functools.partial(_enhance, ImageEnhance.Brightness),
    "sharpness": functools.partial(_enhance, ImageEnhance.Sharpness),
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
}

BLIP_OPERATIONS: dict[str, Operation] = {
    "identity": _identity,
    "auto_contrast": _auto_contrast,
    "equalize": _equalize,
    "rotate": _rotate,
    "brightness": functools.partial(_blip_enhance, ImageEnhance.Brightness),
    "sharpness": functools.partial(_blip_enhance, ImageEnhance.Sharpness),
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x_pixels,
    "translate_y": _translate_y_pixels,
}
