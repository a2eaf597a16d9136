"""Turns a frame as it is to be shown, by the display matrix that comes with it.

The matrix [a b u; c d v; x y w] sends the pixel (p, q), q downwards, to (a p + c q, b p + d q),
shifted by (x, y) into view (ISO/IEC 14496-12, 6.2.2). Only its mirrors and quarter turns are
applied, at the nearest quarter within MOST_OFF degrees. Sizes stay those of the stored picture, as
with pixels that are not square. A matrix of zeros says nothing: the picture stays as it is stored.
A `rotate` tag without a matrix is ignored, as libav's own tools do.
"""

import math
import warnings
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from vlt.data.video import errors
from vlt.data.video.containers import check_size

MOST_OFF = 10.0  # degrees
_NO_SHEAR = 0.01  # largest cosine of the angle between the axes


def upright(frame: av.VideoFrame, path: str, reformatter: VideoReformatter) -> np.ndarray:
    """The frame as it is to be shown: uint8 RGB [H, W, 3]. path: for messages.

    Raises: errors.WrongFrames: it is too large. errors.UnsupportedTurn: as `oriented`.
    """
    check_size(path, frame.height, frame.width)
    matrix = display_matrix(frame)
    frame = reformatter.reformat(frame, format="rgb24", threads=1)
    plane = frame.planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    image = rows[: frame.height, : 3 * frame.width].reshape(frame.height, frame.width, 3)
    return oriented(image, matrix, path)


def display_matrix(frame: av.VideoFrame) -> tuple[int, ...]:
    """The nine numbers that come with the frame, row by row; () where there are none."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    return () if data is None else tuple(np.frombuffer(bytes(data)[:36], np.int32).tolist())


def oriented(image: np.ndarray, matrix: tuple[int, ...], path: str) -> np.ndarray:
    """A view of the picture [H, W, ...], turned as the matrix asks. path: for messages.

    Raises: errors.UnsupportedTurn: the matrix asks for more than mirrors and quarter turns.
    """
    if not matrix:
        return image
    if not any(matrix[i] for i in (0, 1, 3, 4)):
        warnings.warn(f"{path}: its display matrix is zero: read as it is stored", stacklevel=2)
        return image
    along, down = _axis(*matrix[0:2]), _axis(*matrix[3:5])
    product = matrix[0] * matrix[3] + matrix[1] * matrix[4]
    sheared = abs(product) > _NO_SHEAR * math.hypot(*matrix[0:2]) * math.hypot(*matrix[3:5])
    if along is None or down is None or along[0] == down[0] or sheared or matrix[2] or matrix[5]:
        reason = f"its display matrix {list(matrix)} asks for more than mirrors and quarter turns"
        raise errors.UnsupportedTurn(path, reason)
    # `along` and `down` say where the stored picture's p and q axes point on the screen.
    image = image.swapaxes(0, 1) if along[0] == 1 else image
    across, downwards = (down, along) if along[0] == 1 else (along, down)
    return image[:: downwards[1], :: across[1]]


def _axis(x: int, y: int) -> tuple[int, int] | None:
    """(0 for x or 1 for y, sign) of the axis near the direction; None if it is near neither."""
    largest = 0 if abs(x) >= abs(y) else 1
    long, short = (x, y)[largest], (x, y)[1 - largest]
    if not long or math.degrees(math.atan2(abs(short), abs(long))) > MOST_OFF:
        return None
    return largest, 1 if long > 0 else -1
