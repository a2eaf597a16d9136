"""Film strips: clips as rows of frames, and below each what models chose for it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE = 88  # pixels of a frame, about
MARGIN, GAP, LINE, TEXT = 16, 4, 22, 15
RIGHT, WRONG, NONE = "#00734f", "#b3261e", "#666666"


class Choice(NamedTuple):
    """What a model chose for a clip, and whether that was right; None if it could not tell."""

    model: str
    text: str
    right: bool | None


class Strip(NamedTuple):
    """A clip: its title, frames uint8 [t, H, W, 3], and the models' choices."""

    title: str
    frames: np.ndarray
    choices: Sequence[Choice]


def draw_strips(strips: Sequence[Strip], note: str = "") -> Image.Image:
    """Draws strips below each other, and the note below them all. Clips must have one shape."""
    count, height, width = strips[0].frames.shape[:3]
    scale = max(1, round(SIDE / width))
    font = ImageFont.load_default(TEXT)
    columns = _columns(strips, font)
    needed = [count * (scale * width + GAP) - GAP, sum(columns) + LINE, font.getlength(note)]
    rows = sum(LINE * (1 + len(strip.choices)) + scale * height + MARGIN for strip in strips)
    size = int(max(needed)) + 2 * MARGIN, MARGIN + rows + (LINE if note else 0)
    image = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(image)
    y = MARGIN
    for strip in strips:
        pen.text((MARGIN, y), strip.title, "black", font)
        y += LINE
        for column, frame in enumerate(strip.frames):
            large = Image.fromarray(frame.repeat(scale, 0).repeat(scale, 1))
            image.paste(large, (MARGIN + column * (scale * width + GAP), y))
        y += scale * height + GAP
        for choice in strip.choices:
            _choice(pen, font, choice, y, columns[0])
            y += LINE
        y += MARGIN - GAP
    pen.text((MARGIN, y), note, "black", font)
    return image


def _columns(strips: Sequence[Strip], font: Any) -> tuple[int, int]:
    """Widths of the models' names and of the choices."""
    choices = [choice for strip in strips for choice in strip.choices]
    names = max((font.getlength(choice.model) for choice in choices), default=0)
    texts = max((font.getlength(choice.text) for choice in choices), default=0)
    return int(names) + MARGIN, int(texts)


def _choice(pen: ImageDraw.ImageDraw, font: Any, choice: Choice, y: int, names: int) -> None:
    color = NONE if choice.right is None else RIGHT if choice.right else WRONG
    middle, arm = y + LINE // 2, 5
    x = MARGIN + arm
    # Marks differ in shape, not only in colour.
    if choice.right is None:
        pen.line((x - arm, middle, x + arm, middle), color, 2)
    elif choice.right:
        pen.line((x - arm, middle, x - 1, middle + arm, x + arm, middle - arm), color, 2)
    else:
        pen.line((x - arm, middle - arm, x + arm, middle + arm), color, 2)
        pen.line((x - arm, middle + arm, x + arm, middle - arm), color, 2)
    pen.text((MARGIN + LINE, middle), choice.model, "black", font, anchor="lm")
    pen.text((MARGIN + LINE + names, middle), choice.text, color, font, anchor="lm")
