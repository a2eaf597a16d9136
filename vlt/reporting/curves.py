"""Curves over the steps of runs, side by side in one picture with one legend."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from PIL import Image, ImageDraw, ImageFont

# Distinct in any colour vision (Okabe and Ito), without black, which is for text.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#666666")
WIDTH, HEIGHT = 440, 270  # of a panel, pixels
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 34, 40  # from a panel's border to its axes
SHARP = 2  # everything is drawn this many times larger, for smooth lines


class Curve(NamedTuple):
    """Values of one run at its steps; a single one, at step 0, is a level for all steps."""

    name: str
    points: Sequence[tuple[int, float]]


class Panel(NamedTuple):
    """One pair of axes. low, high: the range that the vertical one covers at least."""

    title: str
    curves: Sequence[Curve]
    low: float = 0.0
    high: float = 0.0


def draw_panels(panels: Sequence[Panel]) -> Image.Image:
    """Draws panels from left to right; a name has one colour in all of them, and in the legend.

    Raises:
        ValueError: a panel without points.
    """
    for panel in panels:
        if not any(curve.points for curve in panel.curves):
            raise ValueError(f"{panel.title}: no points to draw")
    last = max(step for p in panels for curve in p.curves for step, _ in curve.points)
    names = list(dict.fromkeys(curve.name for panel in panels for curve in panel.curves))
    colors = {name: COLORS[index % len(COLORS)] for index, name in enumerate(names)}
    line = 20
    size = SHARP * WIDTH * len(panels), SHARP * (HEIGHT + line * len(names) + 8)
    image = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(SHARP * 14)
    for index, panel in enumerate(panels):
        _Axes(pen, font, panel, SHARP * WIDTH * index, max(1, last)).draw(colors)
    for index, name in enumerate(names):
        y = SHARP * (HEIGHT + line * index + line // 2)
        pen.line((SHARP * LEFT, y, SHARP * (LEFT + 24), y), colors[name], SHARP * 3)
        pen.text((SHARP * (LEFT + 32), y), name, "black", font, anchor="lm")
    return image.resize((size[0] // SHARP, size[1] // SHARP), Image.Resampling.LANCZOS)


class _Axes:
    """A panel's place and scales in the picture."""

    def __init__(self, pen: ImageDraw.ImageDraw, font: Any, panel: Panel, x: int, steps: int):
        self._pen, self._font, self._panel = pen, font, panel
        self._left, self._right = x + SHARP * LEFT, x + SHARP * (WIDTH - RIGHT)
        self._top, self._bottom = SHARP * TOP, SHARP * (HEIGHT - BOTTOM)
        self._steps = steps
        values = [value for curve in panel.curves for _, value in curve.points]
        self._low = min(panel.low, *values)
        self._high = max(panel.high, *values)
        self._high += self._high == self._low

    def draw(self, colors: dict[str, str]) -> None:
        middle = (self._left + self._right) / 2
        self._text((self._left, SHARP * TOP / 2), self._panel.title, "lm")
        self._text((middle, self._bottom + SHARP * 28), "step", "mm")
        for value in ticks(self._low, self._high):
            _, y = self._at(0, value)
            self._pen.line((self._left, y, self._right, y), "#dddddd", SHARP)
            self._text((self._left - SHARP * 6, y), f"{value:g}", "rm")
        for step in ticks(0, self._steps):
            x, _ = self._at(step, self._low)
            self._pen.line((x, self._bottom, x, self._bottom + SHARP * 4), "black", SHARP)
            self._text((x, self._bottom + SHARP * 12), f"{step:g}", "mm")
        for curve in self._panel.curves:
            self._curve(curve, colors[curve.name])

    def _curve(self, curve: Curve, color: str) -> None:
        points, dot = list(curve.points), SHARP * 2.5
        if [step for step, _ in points] == [0]:
            points, dot = [(0, points[0][1]), (self._steps, points[0][1])], 0
        places = [self._at(*point) for point in points]
        self._pen.line(places, color, SHARP * 2, joint="curve")
        for x, y in places:
            self._pen.ellipse((x - dot, y - dot, x + dot, y + dot), color)

    def _at(self, step: float, value: float) -> tuple[float, float]:
        x = self._left + step / self._steps * (self._right - self._left)
        share = (value - self._low) / (self._high - self._low)
        return x, self._bottom - share * (self._bottom - self._top)

    def _text(self, place: tuple[float, float], text: str, anchor: str) -> None:
        self._pen.text(place, text, "black", self._font, anchor=anchor)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most `most` round numbers, evenly spaced, from low to high."""
    rough = (high - low) / (most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * part for part in (1, 2, 5, 10) if power * part >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]
