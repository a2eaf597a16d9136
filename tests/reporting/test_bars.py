"""Bars begin at their level and end at their mean; dots are where the axes say."""

import numpy as np
import pytest
from PIL import ImageColor

from vlt.reporting import dots
from vlt.reporting.bars import LINE, MARGIN, Bar, draw_bars
from vlt.reporting.curves import COLORS
from vlt.reporting.dots import Axes, Dot, draw_dots


def columns(image, index, color):
    """Columns with at least three pixels of a colour in the line of a bar."""
    rows = np.asarray(image)[MARGIN + LINE * (index + 1) :][:LINE].astype(int)
    near = np.abs(rows - ImageColor.getrgb(color)).max(-1) <= 30
    return np.nonzero(near.sum(0) >= 3)[0]


def test_bars_are_as_long_as_their_means_are_above_the_level():
    bars = [Bar("a", [60.0]), Bar("b", [65.0, 75.0]), Bar("c", [50.0]), Bar("d", [])]
    image = draw_bars("t", bars, level=50.0)
    first, second = (np.ptp(columns(image, index, "#9ccbe6")) for index in (0, 1))
    assert second == pytest.approx(2 * first, rel=0.05)
    for index in (2, 3):  # one at the level, and one not run
        assert len(columns(image, index, "#9ccbe6")) <= 2
    right = columns(image, 1, COLORS[0]).max()
    assert right > columns(image, 1, "#9ccbe6").max(), "the dot of the better run"


def test_the_longest_name_stands_between_the_margin_and_its_bar():
    image = draw_bars("t", [Bar("HHHHHH", [60.0]), Bar("H", [70.0])], level=50.0)
    bar = columns(image, 0, "#9ccbe6")
    name = columns(image.crop((0, 0, bar.min(), image.height)), 0, "black")
    assert MARGIN <= name.min() < name.max() <= bar.min() - 8


def test_hollow_bars_and_dots_are_outlines():
    filled, hollow = (draw_bars("t", [Bar("a", [60.0, 80.0], h)], level=50.0) for h in (0, 1))
    assert len(columns(filled, 0, "#9ccbe6")) and not len(columns(hollow, 0, "#9ccbe6"))


def middle(image, color):
    """Mean column, mean row and number of a colour's pixels in the square of the axes."""
    pixels = np.asarray(image)[: dots.SIDE, : dots.SIDE].astype(int)
    rows, across = np.nonzero(np.abs(pixels - ImageColor.getrgb(color)).max(-1) <= 40)
    return across.mean(), rows.mean(), len(rows)


def test_dots_are_where_the_axes_say_and_as_large_as_their_area():
    places = [(10.0, 50.0), (1000.0, 90.0), (100.0, 70.0)]
    shown = [
        Dot(name, x, y, area=area, group=name)
        for name, (x, y), area in zip("abc", places, (1.0, 4.0, 1.0), strict=True)
    ]
    image = draw_dots(Axes("", "x", "y", logarithmic=True), shown)
    (x1, y1, small), (x2, y2, large), (x3, y3, _) = (middle(image, c) for c in COLORS[:3])
    assert x1 < x3 < x2 and y2 < y3 < y1
    assert x3 == pytest.approx((x1 + x2) / 2, abs=3) and y3 == pytest.approx((y1 + y2) / 2, abs=3)
    assert large / small == pytest.approx(4, rel=0.2)


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_bars("t", [Bar("a", [])])
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_dots(Axes("t", "x", "y"), [])
