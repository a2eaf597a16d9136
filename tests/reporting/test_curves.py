"""Curves: where values are drawn, in which colour, and which numbers label the axes."""

import numpy as np
import pytest
from PIL import ImageColor

from vlt.reporting import curves
from vlt.reporting.curves import COLORS, Curve, Panel, draw_panels, ticks


def places(image, color, panel=0):
    """Rows and columns of a colour's pixels in a panel, without those of the legend."""
    pixels = np.asarray(image)[: curves.HEIGHT, panel * curves.WIDTH :][:, : curves.WIDTH]
    near = np.abs(pixels.astype(int) - ImageColor.getrgb(color)).max(-1) <= 60
    return np.nonzero(near)


def test_values_are_where_the_scales_say():
    image = draw_panels([Panel("t", [Curve("a", [(0, 0.0), (10, 100.0)])])])
    rows, columns = places(image, COLORS[0])
    first, last = columns.argmin(), columns.argmax()
    assert abs(columns[first] - curves.LEFT) <= 3
    assert abs(rows[first] - (curves.HEIGHT - curves.BOTTOM)) <= 3
    assert abs(columns[last] - (curves.WIDTH - curves.RIGHT)) <= 3
    assert abs(rows[last] - curves.TOP) <= 3


def test_a_name_has_one_colour_in_all_panels_and_panels_one_scale_of_steps():
    falls = Curve("b", [(0, 2.0), (10, 1.0)])
    image = draw_panels(
        [Panel("t", [Curve("a", []), falls]), Panel("u", [Curve("b", [(0, 1), (5, 2)])])]
    )
    assert not len(places(image, COLORS[0])[0])
    half = curves.LEFT + (curves.WIDTH - curves.LEFT - curves.RIGHT) / 2
    assert abs(places(image, COLORS[1], panel=1)[1].max() - half) <= 3


def test_what_was_not_trained_is_a_level_and_one_later_point_is_none():
    def width(step):
        others = Curve("b", [(0, 0), (10, 100)])
        image = draw_panels([Panel("t", [Curve("a", [(step, 50.0)]), others])])
        columns = places(image, COLORS[0])[1]
        return columns.max() - columns.min()

    assert width(0) > 300 > 10 > width(10)


def test_a_panel_without_points_is_an_error():
    with pytest.raises(ValueError, match="Loss: no points to draw"):
        draw_panels([Panel("Loss", [Curve("a", [])])])


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 300, [0, 100, 200, 300]),
        (40, 100, [40, 60, 80, 100]),
        (0, 2.2, [0, 0.5, 1, 1.5, 2]),
        (-0.03, 0.03, [-0.02, 0, 0.02]),
    ],
)
def test_ticks_are_round_and_few(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)
