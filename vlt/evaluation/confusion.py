"""Which classes are taken for which: a table of classes, and a picture of the confusion matrix."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vlt.reporting.paint import MARGIN
from vlt.reporting.tables import Column, format_table
from vlt.storage.files import write_whole

SIDE = 1200  # approximate pixels per side of the matrix, for many classes
CELL = (3, 44)  # fewest and most pixels per class
NAMED = 10  # pixels per class from which classes are labelled by name instead of number
NUMBERED = 34  # pixels per class from which cells contain percentages
LINE, TEXT = 20, 14  # height of a line and size of its letters, in pixels
LONGEST, IN_LIST = 28, 45  # most letters of a class name beside the matrix, and in the list
RIGHT, WRONG = np.array([0, 72, 150]), np.array([196, 78, 0])  # blue and orange at 100%
EMPTY = (225, 225, 225)  # a class without videos
LEGEND = (
    "Rows: true classes{}. Columns: what they are taken for. Share of the row, right and wrong:"
)
SHADES = (1, 5, 20, 50, 100)  # percent

COLUMNS = (
    Column("class", "class"),
    Column("number", "number", "d"),
    Column("videos", "videos", "d"),
    Column("top1", "top-1 (%)"),
    Column("mistaken", "mostly taken for"),
    Column("share", "(%)"),
)


def write_classes(path: Path, counts: np.ndarray, names: Sequence[str]) -> None:
    """Writes a table of the classes, the least accurate first.

    counts: int [true, predicted].
    """
    rows = sorted(map(_row, range(len(names)), counts, [names] * len(names)), key=_accuracy)
    write_whole(path, format_table(rows, COLUMNS) + "\n")


def _row(index: int, counts: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    videos = int(counts.sum())
    row: dict[str, Any] = {"class": names[index], "number": index, "videos": videos}
    if videos:
        row["top1"] = 100 * counts[index] / videos
    others = np.where(np.arange(len(counts)) == index, 0, counts)
    if others.any():
        row["mistaken"] = names[int(others.argmax())]
        row["share"] = 100 * others.max() / videos
    return row


def _accuracy(row: dict[str, Any]) -> float:
    return row.get("top1", np.inf)  # classes without videos come last


def confusion_picture(counts: np.ndarray, names: Sequence[str], title: str) -> Image.Image:
    """The confusion matrix, with the most frequent mistakes listed beside it.

    Class names stand beside rows and above columns, or class numbers where there are too many;
    shades grow with the square root of the share of a row, so that rare mistakes are visible.

    counts: int [true, predicted].
    """
    cell = int(np.clip(SIDE // len(names), *CELL))
    labels, side = _labels(names, cell), cell * len(names)
    room = MARGIN // 2 + max(label.width for label, _ in labels)
    left, top = MARGIN + room, MARGIN + LINE + room
    titles = names if cell >= NAMED else [f"{i} {name}" for i, name in enumerate(names)]
    heading = f"{title}: {summary(counts)}"
    listed = ["The most frequent mistakes", *mistakes(counts, titles, side // LINE - 1)]
    legend = LEGEND.format("" if cell >= NAMED else ", numbered as in the table of classes")
    right = left + side + MARGIN
    width = max(right + _width(listed), MARGIN + _width([heading, legend])) + MARGIN
    height = top + max(side, LINE * len(listed)) + 4 * LINE
    image = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(image)
    pen.text((MARGIN, MARGIN), heading, "black", _font(TEXT))
    _draw_matrix(image, counts, (left, top), cell)
    for label, place in labels:
        down = label.rotate(90, expand=True)
        image.paste("black", (left - label.width - 6, top + place - label.height // 2), label)
        image.paste("black", (left + place - down.width // 2, top - down.height - 6), down)
    for line, text in enumerate(listed):
        pen.text((right, top + LINE * line), text, "black", _font(TEXT))
    _draw_legend(pen, height - 3 * LINE, legend)
    return image


def _labels(names: Sequence[str], cell: int) -> list[tuple[Image.Image, int]]:
    """Masks of the class names, or of some classes' numbers, and the centres of their rows."""
    step = 1 if cell >= NAMED else 10 * -(-LINE // (10 * cell))
    shown = [_cut(name, LONGEST) if cell >= NAMED else f"{i} -" for i, name in enumerate(names)]
    size = min(TEXT, cell) if cell >= NAMED else TEXT
    return [(_written(shown[i], size), cell * i + cell // 2) for i in range(0, len(names), step)]


def _written(text: str, size: int) -> Image.Image:
    mask = Image.new("L", (int(_font(size).getlength(text)) + 1, size + size // 4))
    ImageDraw.Draw(mask).text((0, mask.height / 2), text, "white", _font(size), anchor="lm")
    return mask


def _cut(name: str, letters: int) -> str:
    return name if len(name) <= letters else name[: letters - 3].rstrip() + "..."


def _cells(counts: np.ndarray, cell: int) -> np.ndarray:
    """uint8 [side, side, 3], with light grey lines between classes if cells are large enough."""
    totals = counts.sum(1, keepdims=True)
    shares = np.sqrt(counts / np.maximum(totals, 1))[..., None]
    full = np.where(np.eye(len(counts), dtype=bool)[..., None], RIGHT, WRONG)
    colors = np.where(totals[..., None] > 0, 255 + shares * (full - 255), EMPTY)
    pixels = np.round(colors).astype(np.uint8).repeat(cell, 0).repeat(cell, 1)
    if cell >= NAMED:
        pixels[::cell] = pixels[:, ::cell] = 240
    return pixels


def _draw_matrix(
    image: Image.Image, counts: np.ndarray, corner: tuple[int, int], cell: int
) -> None:
    """Draws the matrix, with percentages where they fit."""
    cells = Image.fromarray(_cells(counts, cell))
    image.paste(cells, corner)
    pen = ImageDraw.Draw(image)
    low = [place - 1 for place in corner]
    pen.rectangle((*low, *(place + cells.width + 1 for place in low)), outline="gray")
    for true, found in np.argwhere(counts) if cell >= NUMBERED else ():
        share = counts[true, found] / counts[true].sum()
        place = (corner[0] + (found + 0.5) * cell, corner[1] + (true + 0.5) * cell)
        color = "white" if share > 0.3 else "black"
        pen.text(place, f"{100 * share:.0f}", color, _font(cell // 3), anchor="mm")


def mistakes(counts: np.ndarray, titles: Sequence[str], most: int) -> list[str]:
    """At most `most` lines on the most frequent mistakes. counts: int [true, predicted]."""
    wrong = np.where(np.eye(len(counts), dtype=bool), 0, counts)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    lines = []
    for true, found in (divmod(int(place), len(counts)) for place in order if wrong.flat[place]):
        some, every = wrong[true, found], counts[true].sum()
        first, second = (_cut(titles[i], IN_LIST) for i in (true, found))
        lines.append(
            f"{some} of {every} ({100 * some / every:.0f}%)   {first}  taken for  {second}"
        )
    return lines or ["None"]


def summary(counts: np.ndarray) -> str:
    """The numbers of videos and classes and both accuracies, in words."""
    totals, right = counts.sum(1), counts.diagonal()
    mean = (right[totals > 0] / totals[totals > 0]).mean()
    return (
        f"{totals.sum():,} videos of {len(counts)} classes, top-1 "
        f"{100 * right.sum() / totals.sum():.1f}%, mean of classes {100 * mean:.1f}%"
    )


def _draw_legend(pen: ImageDraw.ImageDraw, y: int, text: str) -> None:
    pen.text((MARGIN, y), text, "black", _font(TEXT))
    for place, share in enumerate(SHADES):
        x = MARGIN + 90 * place
        for color in (RIGHT, WRONG):
            shade = tuple(np.round(255 + (share / 100) ** 0.5 * (color - 255)).astype(int))
            pen.rectangle((x, y + LINE + 4, x + 14, y + LINE + 18), fill=shade)
            x += 18
        pen.text((x, y + LINE + 3), f"{share}%", "black", _font(TEXT))


def _width(lines: Sequence[str]) -> int:
    return int(max(_font(TEXT).getlength(line) for line in lines)) + 1


def _font(size: int) -> Any:
    return ImageFont.load_default(size)
