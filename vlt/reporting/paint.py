"""Pictures of the tokens of a clip: patches filled and outlined, and rows of frames with titles."""

import colorsys
import functools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PRUNED = -1  # the token of a patch that is in none
COLUMNS = 16  # frames side by side, at most
MARGIN, GAP = 24, 4  # pixels
PAGE = (232, 232, 232)  # unlike white frames
# Eight hues, each bright, pale and dark.
PALETTE = np.array(
    [
        [round(255 * part) for part in colorsys.hsv_to_rgb(hue / 8, saturation, value)]
        for saturation, value in ((1, 1), (0.4, 1), (1, 0.6))
        for hue in range(8)
    ],
    np.uint8,
)


def paint(frames: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Frames with the patches of each token in their mean colour, and a border around each region.

    Patches that are alone in their token stay as they are; patches in none become dark.

    Args:
        frames: uint8 [t, H, W, 3]. tokens: int [t, rows, cols], the token of each patch or PRUNED;
            rows and cols divide H and W.

    Returns:
        uint8 [t, H, W, 3]
    """
    patch = frames.shape[1] // tokens.shape[1]
    pixels = tokens.repeat(patch, 1).repeat(frames.shape[2] // tokens.shape[2], 2)
    count = np.bincount(tokens[tokens != PRUNED], minlength=tokens.max() + 1)
    kept = np.where(pixels == PRUNED, 0, pixels)
    merged = (pixels != PRUNED) & (count[kept] > 1)
    out = frames.copy()
    out[merged] = _means(frames, pixels, len(count))[pixels[merged]]
    outline = merged & _outline(pixels, max(1, patch // 8))
    out[outline] = PALETTE[border_colors(tokens)][pixels[outline]]
    out[pixels == PRUNED] = frames[pixels == PRUNED] // 5
    return out


def _means(frames: np.ndarray, pixels: np.ndarray, count: int) -> np.ndarray:
    """Mean colours [count, 3] of the pixels of each token."""
    flat, inside = pixels.ravel(), pixels.ravel() != PRUNED
    channels = frames.reshape(-1, 3)[inside].astype(np.float64)
    sums = [np.bincount(flat[inside], channel, count) for channel in channels.T]
    area = np.bincount(flat[inside], minlength=count).clip(1)
    return np.round(np.stack(sums, -1) / area[:, None]).astype(np.uint8)


def _outline(pixels: np.ndarray, width: int) -> np.ndarray:
    """Whether another token, or the frame's edge, is within `width` pixels: bool [t, H, W]."""
    low = high = np.pad(
        pixels, ((0, 0), (width, width), (width, width)), constant_values=PRUNED - 1
    )
    for axis in (1, 2):
        windows = functools.partial(
            np.lib.stride_tricks.sliding_window_view, window_shape=2 * width + 1, axis=axis
        )
        low, high = windows(low).min(-1), windows(high).max(-1)
    return low != high


def border_colors(tokens: np.ndarray) -> np.ndarray:
    """A row of PALETTE for each token, unlike those of its neighbours as far as possible.

    Neighbours are tokens of patches side by side, or at the same place in the next frame, so that
    a border keeps its colour from frame to frame only if it is of the same token.

    Args:
        tokens: int [t, rows, cols].

    Returns:
        int [tokens.max() + 1]
    """
    neighbours = _neighbours(tokens)
    colors = np.full(tokens.max() + 1, -1)
    uses = np.zeros(len(PALETTE), int)
    sizes = Counter(tokens[tokens != PRUNED].tolist())
    # Tokens that are alone have no border.
    for token in sorted(token for token, size in sizes.items() if size > 1):
        taken = np.zeros(len(PALETTE))
        for other, length in neighbours.get(token, {}).items():
            if colors[other] >= 0:
                taken[colors[other]] += length
        colors[token] = np.lexsort((uses, taken))[0]
        uses[colors[token]] += 1
    return colors


def _neighbours(tokens: np.ndarray) -> dict[int, dict[int, int]]:
    """{token: {its neighbour: how much they touch}}."""
    found: dict[int, dict[int, int]] = {}
    for axis, weight in ((0, 1), (1, 1000), (2, 1000)):
        first = tokens.swapaxes(0, axis)[:-1].ravel()
        second = tokens.swapaxes(0, axis)[1:].ravel()
        apart = (first != second) & (first != PRUNED) & (second != PRUNED)
        pairs = Counter(zip(first[apart].tolist(), second[apart].tolist(), strict=True))
        for (a, b), length in pairs.items():
            for one, other in ((a, b), (b, a)):
                touching = found.setdefault(one, {})
                touching[other] = touching.get(other, 0) + weight * length
    return found


def picture(title: str, rows: Sequence[tuple[str, np.ndarray]], caption: str) -> Image.Image:
    """Draws rows of frames, each under its title; long rows continue below, part by part.

    rows: (title, uint8 [t, H, W, 3]), the same shape in all.
    """
    count, height, width = rows[0][1].shape[:3]
    columns = min(count, COLUMNS)
    parts = [range(start, min(start + columns, count)) for start in range(0, count, columns)]
    inner = columns * (width + GAP) - GAP
    lines = [title, caption, *(name for name, _ in rows)]
    font = _font(lines, inner)
    line = int(1.7 * font.size)
    total = MARGIN + line + len(parts) * len(rows) * (line + height + GAP) + line + MARGIN
    image = Image.new("RGB", (inner + 2 * MARGIN, total), PAGE)
    pen = ImageDraw.Draw(image)
    pen.text((MARGIN, MARGIN), title, "black", font)
    y = MARGIN + line
    for part in parts:
        shown = f", frames {part[0] + 1} to {part[-1] + 1}" if len(parts) > 1 else ""
        for name, frames in rows:
            pen.text((MARGIN, y + 0.3 * font.size), name + shown, "black", font)
            y += line
            for column, frame in enumerate(part):
                x = MARGIN + column * (width + GAP)
                image.paste(Image.fromarray(frames[frame]), (x, y))
            y += height + GAP
    pen.text((MARGIN, y + 0.3 * font.size), caption, "black", font)
    return image


def _font(lines: Sequence[str], width: int) -> Any:
    """A font as large as reads well, but small enough for the longest line."""
    font = ImageFont.load_default(100)
    longest = max(font.getlength(line) for line in lines)
    return ImageFont.load_default(int(min(max(15, width / 90), 100 * width / longest)))
