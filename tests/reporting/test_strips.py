"""Film strips: frames as they are, and marks of choices."""

from types import SimpleNamespace

import numpy as np
from PIL import ImageColor

from vlt.reporting import strips
from vlt.reporting.strips import GAP, LINE, MARGIN, NONE, RIGHT, WRONG, Choice, Strip, draw_strips

CHOICES = [Choice("A", "right", True), Choice("B", "wrong", False), Choice("C", "neither", None)]


def strip(*choices):
    frames = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    return Strip("a clip", frames, choices)


def colors(image):
    """Colours of the marks, left of the models' names and below the frames."""
    marks = np.asarray(image)[MARGIN + LINE + 96 + GAP :, MARGIN : MARGIN + 11]
    return {tuple(color) for color in marks.reshape(-1, 3).tolist()}


def test_frames_are_enlarged_and_else_unchanged():
    given = strip()
    pixels = np.asarray(draw_strips([given]))
    top = MARGIN + LINE
    for index, frame in enumerate(given.frames):
        left = MARGIN + index * (96 + GAP)
        np.testing.assert_array_equal(
            pixels[top : top + 96 : 3, left : left + 96 : 3],
            frame,
        )


def test_marks_tell_right_wrong_and_undecided():
    for choice, color in zip(CHOICES, (RIGHT, WRONG, NONE), strict=True):
        found = colors(draw_strips([strip(choice)]))
        others = {RIGHT, WRONG, NONE} - {color}
        assert ImageColor.getrgb(color) in found
        assert not {ImageColor.getrgb(other) for other in others} & found


def test_a_picture_is_wide_enough_for_its_longest_line():
    long = Choice("A", "a long caption " * 10, True)
    pixels = np.asarray(draw_strips([strip(long)], note="a note " * 30))
    assert (pixels[:, -MARGIN // 2 :] == 255).all()


def test_columns_are_as_wide_as_their_longest_texts():
    font = SimpleNamespace(getlength=lambda text: 7.0 * len(text))
    assert strips._columns([strip(*CHOICES), strip()], font) == (7 + MARGIN, 7 * len("neither"))
    assert strips._columns([strip()], font) == (MARGIN, 0)
