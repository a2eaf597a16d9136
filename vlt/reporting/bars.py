"""Bars of results that are means over runs, with a dot for each run."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from PIL import Image, ImageDraw, ImageFont

from vlt.reporting.curves import COLORS, SHARP, ticks

WIDTH, LINE, MARGIN = 760, 26, 16  # pixels: the picture, a bar with the space below, the border


class Bar(NamedTuple):
    """values: one for each run; none for a row that was not run. hollow: drawn as an outline."""

    name: str
    values: Sequence[float]
    hollow: bool = False


def draw_bars(
    title: str, bars: Sequence[Bar], form: str = ".1f", level: float = 0.0
) -> Image.Image:
    """Draws bars to the right, from `level` on, with the mean and a dot for each run.

    form: how means are formatted. level: where bars begin, such as chance; lower ones go left.

    Raises:
        ValueError: no bar has a value.
    """
    every = [value for bar in bars for value in bar.values]
    if not every:
        raise ValueError(f"{title}: nothing to draw")
    height = MARGIN + LINE * (len(bars) + 2) + MARGIN
    image = Image.new("RGB", (SHARP * WIDTH, SHARP * height), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(SHARP * 14)
    names = max(font.getlength(bar.name) for bar in bars)
    left = SHARP * MARGIN + names + SHARP * 10
    right = SHARP * (WIDTH - MARGIN) - font.getlength(format(max(every), form)) - SHARP * 10
    low, high = min(level, *every), max(level, *every)
    high += high == low

    def at(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    pen.text((SHARP * MARGIN, SHARP * MARGIN), title, "black", font)
    bottom = SHARP * (MARGIN + LINE * (len(bars) + 1))
    for value in ticks(low, high):
        pen.line((at(value), SHARP * (MARGIN + LINE), at(value), bottom), "#dddddd", SHARP)
        pen.text((at(value), bottom + SHARP * 10), f"{value:g}", "black", font, anchor="mm")
    for index, bar in enumerate(bars):
        middle = SHARP * (MARGIN + LINE * (index + 1) + LINE // 2)
        pen.text((left - SHARP * 10, middle), bar.name, "black", font, anchor="rm")
        _bar(pen, font, bar, middle, at, (level, right, form))
    return image.resize((WIDTH, height), Image.Resampling.LANCZOS)


def _bar(
    pen: ImageDraw.ImageDraw,
    font: Any,
    bar: Bar,
    middle: float,
    at: Callable[[float], float],
    limits: tuple[float, float, str],
) -> None:
    """Draws a bar around a height. at: maps a value to pixels. limits: the value where it begins,
    the right border in pixels, and how its mean is formatted."""
    level, right, form = limits
    if not bar.values:
        pen.text((at(level), middle), "not run", "#666666", font, anchor="lm")
        return
    mean = sum(bar.values) / len(bar.values)
    half = SHARP * 8
    ends = sorted((at(level), at(mean)))
    box = (ends[0], middle - half, ends[1], middle + half)
    pen.rectangle(box, None if bar.hollow else "#9ccbe6", COLORS[0], SHARP)
    dot = SHARP * 2.5
    for value in bar.values:
        pen.ellipse((at(value) - dot, middle - dot, at(value) + dot, middle + dot), COLORS[0])
    pen.text((right + SHARP * 10, middle), format(mean, form), "black", font, anchor="lm")
