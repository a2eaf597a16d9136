"""The table of classes and the image of the confusion matrix, read back."""

import numpy as np
import pytest
from PIL import Image

from vlt.evaluation import confusion
from vlt.evaluation.confusion import confusion_picture, write_classes

NAMES = ["run", "walk", "jump", "sit"]
COUNTS = np.array([[3, 1, 0, 0], [5, 5, 0, 0], [0, 0, 2, 0], [0, 0, 0, 0]])


def test_table_has_the_least_accurate_first_and_what_it_is_taken_for(tmp_path):
    write_classes(tmp_path / "classes.txt", COUNTS, NAMES)
    head, rule, *rows = (tmp_path / "classes.txt").read_text().splitlines()
    assert [title.strip() for title in head.split("  ") if title] == [
        "class", "number", "videos", "top-1 (%)", "mostly taken for", "(%)",
    ]  # fmt: skip
    assert set(rule) == {"-", " "}
    assert [row.split() for row in rows] == [
        ["walk", "1", "10", "50.0", "run", "50.0"],
        ["run", "0", "4", "75.0", "walk", "25.0"],
        ["jump", "2", "2", "100.0", "-", "-"],
        ["sit", "3", "0", "-", "-", "-"],
    ]


def found_in(picture: Image.Image, count: int) -> np.ndarray:
    """Colours of the cells, [count, count, 3], from the grey frame around the matrix inwards."""
    pixels = np.asarray(picture).astype(int)
    gray = (pixels == 128).all(-1)
    top, left = np.argmax(gray.sum(1) > 100), np.argmax(gray.sum(0) > 100)
    cell = int(np.clip(confusion.SIDE // count, *confusion.CELL))
    # The upper left of each cell, since percentages are in the middle.
    rows, columns = (first + 2 + cell * np.arange(count) for first in (top, left))
    return pixels[np.ix_(rows, columns)]


@pytest.mark.parametrize("count", [10, 51, 101, 400])
def test_cells_have_the_shade_of_their_share(count):
    rng = np.random.default_rng(count)
    counts = rng.integers(0, 9, (count, count)) * (rng.random((count, count)) < 3 / count)
    counts[2] = 0
    picture = confusion_picture(counts, [f"class {i}" for i in range(count)], "val")
    assert max(picture.size) < 2500
    shares = np.sqrt(counts / counts.sum(1, keepdims=True).clip(1))[..., None]
    full = np.where(np.eye(count)[..., None] > 0, confusion.RIGHT, confusion.WRONG)
    expected = 255 + shares * (full - 255)
    expected[counts.sum(1) == 0] = confusion.EMPTY
    np.testing.assert_allclose(found_in(picture, count), expected, atol=0.51)


@pytest.mark.parametrize("cell", [3, 6, 9])
def test_of_many_classes_every_tenth_or_so_is_numbered(cell, monkeypatch):
    monkeypatch.setattr(confusion, "_written", lambda text, size: text)
    shown = confusion._labels(["jump"] * 400, cell)
    numbers = [int(text.removesuffix(" -")) for text, _ in shown]
    step = numbers[1]
    assert step % 10 == 0 and numbers == list(range(0, 400, step))
    assert confusion.LINE <= step * cell < confusion.LINE + 10 * cell, "no closer than lines are"
    assert [place for _, place in shown] == [number * cell + cell // 2 for number in numbers]


def test_mistakes_are_listed_by_how_often_they_happen():
    assert confusion.mistakes(COUNTS, NAMES, 9) == [
        "5 of 10 (50%)   walk  taken for  run",
        "1 of 4 (25%)   run  taken for  walk",
    ]
    assert confusion.mistakes(COUNTS, NAMES, 1) == ["5 of 10 (50%)   walk  taken for  run"]
    assert confusion.mistakes(np.diag([2, 3]), NAMES[:2], 9) == ["None"]
    assert confusion.summary(COUNTS) == (
        "16 videos of 4 classes, top-1 62.5%, mean of classes 75.0%"
    )


def test_a_single_class_and_long_names_are_drawn():
    picture = confusion_picture(np.array([[2]]), ["Putting something on " * 9], "val")
    assert picture.size[0] < 1500
