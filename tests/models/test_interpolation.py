"""Tables of positions at other sizes, against torch and jax.image."""

import jax
import numpy as np
import pytest
import torch.nn.functional as F
from torch import from_numpy

from vlt.models.interpolation import (
    resize_positions,
    resize_rows,
    resize_temporal,
    sinusoid,
    sinusoid_halves,
)

WIDTH = 6


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


SIDES = [(4, 7), (4, 9), (16, 7), (7, 16), (3, 1), (1, 5), (24, 12)]


@pytest.mark.parametrize("cls", [1, 2])
@pytest.mark.parametrize(("old", "new"), SIDES)
@pytest.mark.parametrize("kind", ["bicubic", "bilinear", "triangle"])
def test_a_square_of_patches_is_resized_as_by_torch_or_jax(kind, old, new, cls):
    table = drawn(cls + old**2, WIDTH)
    grid = table[cls:].reshape(old, old, WIDTH)
    if kind == "triangle":
        expected = np.asarray(jax.image.resize(grid, (new, new, WIDTH), "bilinear"))
    else:
        planes = from_numpy(grid.transpose(2, 0, 1))[None]
        # Only of the cubic does ours round its weights where torch does.
        planes = planes if kind == "bicubic" else planes.double()
        expected = F.interpolate(planes, (new, new), mode=kind, align_corners=False)
        expected = expected[0].numpy().transpose(1, 2, 0)
    found = resize_positions(table, new, cls, kind)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[:cls], table[:cls])
    np.testing.assert_allclose(found[cls:], expected.reshape(-1, WIDTH), rtol=0, atol=1e-6)


def test_a_table_of_the_same_side_is_itself():
    table = drawn(1 + 16, WIDTH)
    assert resize_positions(table, 4) is table


@pytest.mark.parametrize(("old", "new"), [(4, 12), (8, 9), (8, 32), (1, 3), (5, 7)])
def test_frames_are_resized_as_by_torch(old, new):
    table = drawn(old, WIDTH)
    expected = F.interpolate(from_numpy(table.T)[None], new, mode="linear", align_corners=False)
    found = resize_temporal(table, new)
    np.testing.assert_allclose(found, expected[0].numpy().T, rtol=0, atol=1e-6)


def test_fewer_frames_keep_the_first_rows():
    table = drawn(8, WIDTH)
    for count in (3, 8):
        np.testing.assert_array_equal(resize_temporal(table, count), table[:count])


@pytest.mark.parametrize(("old", "new"), [(16, 8), (8, 16), (3, 3)])
def test_rows_are_resized_as_by_jax(old, new):
    table = drawn(old, WIDTH)
    expected = jax.image.resize(table, (new, WIDTH), "bilinear")
    np.testing.assert_allclose(resize_rows(table, new), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("width", [6, 7])
def test_sinusoids(width):
    table = sinusoid(5, width)
    for position in range(5):
        for i in range(width):
            angle = position / 10000 ** (2 * (i // 2) / width)
            expected = np.cos(angle) if i % 2 else np.sin(angle)
            assert table[position, i] == pytest.approx(expected, abs=1e-7)


def test_sinusoids_in_halves():
    table, rates = sinusoid_halves(5, 8), 10000.0 ** (-np.arange(4) / 3)
    angle = np.arange(5)[:, None] * rates
    np.testing.assert_allclose(table[:, :4], np.sin(angle), atol=1e-6)
    np.testing.assert_allclose(table[:, 4:], np.cos(angle), atol=1e-6)
