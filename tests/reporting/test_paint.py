"""Fills, borders and pages."""

import numpy as np
import pytest

from vlt.reporting.paint import PALETTE, PRUNED, border_colors, paint, picture


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), np.uint8)


# Patches are 16 x 16 pixels: token 3 spans both frames, 0 is in two places, 5 and 6 have one patch
# each, and one patch is pruned.
TOKENS = np.array([[[3, 3, 0], [5, 3, 0]], [[3, 0, 6], [3, PRUNED, 0]]])


def patch(x, frame, row, col):
    return x[frame, 16 * row : 16 * row + 16, 16 * col : 16 * col + 16]


def test_tokens_have_one_fill_and_one_border_in_all_frames(frames):
    painted = paint(frames, TOKENS)
    colors = border_colors(TOKENS)
    for token in (0, 3):
        where = np.argwhere(token == TOKENS)
        mean = np.mean([patch(frames, *at) for at in where], axis=(0, 1, 2))
        for at in where:
            np.testing.assert_array_equal(patch(painted, *at)[8, 8], np.round(mean))
            assert any((patch(painted, *at) == PALETTE[colors[token]]).all(-1).ravel())
    assert colors[0] != colors[3]


def test_patches_alone_stay_bit_for_bit_and_pruned_ones_are_dark(frames):
    painted = paint(frames, TOKENS)
    for at in ((0, 1, 0), (1, 0, 2)):
        np.testing.assert_array_equal(patch(painted, *at), patch(frames, *at))
    np.testing.assert_array_equal(patch(painted, 1, 1, 1), patch(frames, 1, 1, 1) // 5)


def test_borders_run_along_outlines_and_nowhere_else(frames):
    painted = paint(frames, TOKENS)
    border = PALETTE[border_colors(TOKENS)[3]]
    corner = painted[0, :16, :32]  # two patches of token 3 side by side, above 5 and 3
    drawn = (corner == border).all(-1)
    expected = np.zeros((16, 32), bool)
    expected[:2] = expected[:, :2] = True  # the frame's edge
    expected[:, 30:] = True  # token 0
    expected[14:, :18] = True  # token 5, round its corner
    np.testing.assert_array_equal(drawn, expected)


def test_frames_without_merged_patches_are_untouched(frames):
    np.testing.assert_array_equal(paint(frames, np.arange(12).reshape(2, 2, 3)), frames)


def test_neighbours_differ_in_colour_also_from_frame_to_frame():
    rng = np.random.default_rng(1)
    # As with ToMe: each of 6 frames of 14 x 14 patches has 20 tokens of its own.
    tokens = rng.integers(0, 20, (6, 14, 14)) + 20 * np.arange(6)[:, None, None]
    blocks = tokens[:, ::4, ::4].repeat(4, 1).repeat(4, 2)
    colors = border_colors(blocks)[blocks]
    for axis in (0, 1, 2):
        first, second = (np.take(blocks, range(*r), axis) for r in ((0, 5), (1, 6)))
        apart = first != second
        first, second = (np.take(colors, range(*r), axis) for r in ((0, 5), (1, 6)))
        assert apart.any() and (first != second)[apart].all()


def test_a_colour_that_comes_again_does_not_come_beside_itself():
    """More tokens than colours, one per column; token 0 is beside the first one too many."""
    many = len(PALETTE)
    order = [0, many, *range(1, many)]
    colors = border_colors(np.array([[order, order]]))
    assert set(colors) == set(range(many))
    assert (colors[order[1:]] != colors[order[:-1]]).all()


def test_long_clips_continue_below():
    clip = np.zeros((40, 32, 32, 3), np.uint8)
    short, long = (picture("clip", [("row", clip[:n])], "caption") for n in (16, 40))
    assert long.width == short.width
    assert long.height - short.height > 2 * 32
