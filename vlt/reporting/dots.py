"""Dots over two axes, numbered, with their names beside them."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from PIL import Image, ImageDraw, ImageFont

from vlt.reporting.curves import COLORS, SHARP, ticks

SIDE = 560  # of the square that holds axes and dots, pixels
LEFT, RIGHT, TOP, BOTTOM = 60, 20, 40, 62  # from its border to the axes
LINE, GAP = 19, 16  # of a name; between square and names
LARGEST, SMALLEST = 15.0, 4.0  # radius of a dot
AROUND = tuple((math.cos(k * math.pi / 4), math.sin(k * math.pi / 4)) for k in range(8))


class Dot(NamedTuple):
    """x, y: its place. spread: deviation of y, a whisker up and down. area: relative to other dots.
    group: dots of a group share a colour and a title. hollow: drawn as an outline."""

    name: str
    x: float
    y: float
    spread: float = 0.0
    area: float = 0.0
    group: str = ""
    hollow: bool = False


class Axes(NamedTuple):
    """Titles; whether x is logarithmic, with 0 at the left border; a level of y to mark."""

    title: str
    x: str
    y: str
    logarithmic: bool = False
    level: float | None = None


def draw_dots(
    axes: Axes, dots: Sequence[Dot], lines: Sequence[Sequence[str]] = (), note: str = ""
) -> Image.Image:
    """Draws numbered dots, with their names to the right; lines join dots by name.

    Raises:
        ValueError: no dots.
    """
    if not dots:
        raise ValueError(f"{axes.title}: nothing to draw")
    groups = list(dict.fromkeys(dot.group for dot in dots))
    font = ImageFont.load_default(SHARP * 13)
    listed = [f"{len(dots)}  {dot.name}  {dot.y:.1f}" for dot in dots]
    names = max(font.getlength(text) for text in (*listed, *groups)) / SHARP
    rows = len(dots) + sum(bool(group) for group in groups) + 2
    size = (int(SIDE + GAP + names + GAP), max(SIDE, TOP + LINE * rows))
    image = Image.new("RGB", (SHARP * size[0], SHARP * size[1]), "white")
    plot = _Plot(ImageDraw.Draw(image), font, axes, dots)
    plot.frame(note)
    plot.lines(lines)
    plot.dots([COLORS[groups.index(dot.group) % len(COLORS)] for dot in dots])
    plot.names(groups)
    return image.resize(size, Image.Resampling.LANCZOS)


class _Plot:
    """The scales of a picture, and what is drawn with them."""

    def __init__(self, pen: ImageDraw.ImageDraw, font: Any, axes: Axes, dots: Sequence[Dot]):
        self._pen, self._font, self._axes, self._dots = pen, font, axes, dots
        positive = [dot.x for dot in dots if dot.x > 0] or [1.0]
        self._least = min(positive) / 3
        self._across = _scale([self._x(dot.x) for dot in dots], LEFT, SIDE - RIGHT)
        heights = [dot.y + sign * dot.spread for dot in dots for sign in (-1, 1)]
        level = [] if axes.level is None else [axes.level]
        self._low, self._high = min(heights + level), max(heights + level)
        self._up = _scale([self._low, self._high], SIDE - BOTTOM, TOP)
        most = max((dot.area for dot in dots), default=0.0)
        self._radii = [
            SHARP * max(SMALLEST, LARGEST * math.sqrt(dot.area / most)) if most else SHARP * 5.0
            for dot in dots
        ]

    def _x(self, x: float) -> float:
        return math.log10(max(x, self._least)) if self._axes.logarithmic else x

    def _at(self, x: float, y: float) -> tuple[float, float]:
        return SHARP * self._across(self._x(x)), SHARP * self._up(y)

    def _text(self, place: tuple[float, float], text: str, anchor: str) -> None:
        self._pen.text(place, text, "black", self._font, anchor=anchor)

    def frame(self, note: str) -> None:
        """Draws the grid, numbers and titles."""
        left, right = SHARP * LEFT, SHARP * (SIDE - RIGHT)
        top, bottom = SHARP * TOP, SHARP * (SIDE - BOTTOM)
        for value in ticks(self._low, self._high + (self._high == self._low)):
            _, y = self._at(1.0, value)
            if y > top - SHARP * 12:
                self._pen.line((left, y, right, y), "#dddddd", SHARP)
                self._text((left - SHARP * 6, y), f"{value:g}", "rm")
        for value, title in self._marks():
            x, _ = self._at(value, self._low)
            self._pen.line((x, bottom, x, bottom + SHARP * 4), "black", SHARP)
            self._text((x, bottom + SHARP * 13), title, "mm")
        if self._axes.level is not None:
            _, y = self._at(1.0, self._axes.level)
            self._pen.line((left, y, right, y), "#888888", SHARP * 2)
        self._text((left, SHARP * TOP / 2), self._axes.title or self._axes.y, "lm")
        self._text(((left + right) / 2, bottom + SHARP * 32), self._axes.x, "mm")
        if note:
            self._text(((left + right) / 2, bottom + SHARP * 49), note, "mm")

    def _marks(self) -> list[tuple[float, str]]:
        found = [dot.x for dot in self._dots]
        if not self._axes.logarithmic:
            low, high = min(found), max(found)
            return [(value, f"{value:g}") for value in ticks(low, high + (high == low))]
        powers = range(math.ceil(math.log10(self._least)), math.floor(math.log10(max(found))) + 1)
        zero = [(0.0, "0")] if min(found) == 0 else []
        return zero + [(10.0**power, f"{10**power:,}") for power in powers if power >= 0]

    def lines(self, lines: Sequence[Sequence[str]]) -> None:
        """Draws lines that join dots, given by name."""
        places = {dot.name: self._at(dot.x, dot.y) for dot in self._dots}
        for names in lines:
            joined = [places[name] for name in names if name in places]
            if len(joined) > 1:
                self._pen.line(joined, "#888888", SHARP * 2, joint="curve")

    def dots(self, colors: Sequence[str]) -> None:
        """Draws the dots, large ones first, and a number beside each where there is most room."""
        taken: list[tuple[float, float]] = [self._at(dot.x, dot.y) for dot in self._dots]
        order = sorted(range(len(self._dots)), key=lambda k: -self._radii[k])
        for k in order:
            dot, radius, (x, y) = self._dots[k], self._radii[k], taken[k]
            if dot.spread:
                low, high = (self._at(dot.x, dot.y + s * dot.spread)[1] for s in (-1, 1))
                self._pen.line((x, low, x, high), colors[k], SHARP)
            box = (x - radius, y - radius, x + radius, y + radius)
            self._pen.ellipse(box, "white" if dot.hollow else colors[k], colors[k], SHARP * 2)
        for k in range(len(self._dots)):
            (x, y), away = taken[k], self._radii[k] + SHARP * 9
            spots = [(x + away * dx, y + away * dy) for dx, dy in AROUND]
            best = max(spots, key=lambda spot: _room(spot, taken))
            taken.append(best)
            self._text(best, str(k + 1), "mm")

    def names(self, groups: Sequence[str]) -> None:
        """Draws the list to the right: numbers, names and heights, group by group."""
        x, y = SHARP * (SIDE + GAP), SHARP * TOP
        for group in groups:
            if group:
                color = COLORS[groups.index(group) % len(COLORS)]
                self._pen.text((x, y), group, color, self._font, anchor="lm")
                y += SHARP * LINE
            for k, dot in enumerate(self._dots):
                if dot.group == group:
                    self._text((x, y), f"{k + 1}  {dot.name}  {dot.y:.1f}", "lm")
                    y += SHARP * LINE


def _room(spot: tuple[float, float], taken: Sequence[tuple[float, float]]) -> float:
    """Distance to the nearest place taken, up to where it no longer matters."""
    return min(SHARP * 24, *(math.dist(spot, other) for other in taken))


def _scale(values: Sequence[float], start: float, end: float) -> Callable[[float], float]:
    """A function from values to pixels, with a little room on both sides."""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    room = 0.05 * (end - start)
    first, last = start + room, end - room
    return lambda value: first + (value - low) / span * (last - first)
