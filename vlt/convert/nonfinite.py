"""Weights that are NaN or infinite."""

from collections.abc import Mapping

import numpy as np

from vlt.convert.errors import ConversionError

_LISTED = 10


def check_finite(path: object, tensors: Mapping[str, np.ndarray], allowed: bool) -> list[str]:
    """Notes on the tensors with values that are NaN or infinite: how many, and where the first is.

    Raises ConversionError: there are such tensors, and they are not allowed.
    """
    lines = [line for name, tensor in tensors.items() if (line := about_nonfinite(name, tensor))]
    refuse_nonfinite(path, lines, allowed)
    return lines


def refuse_nonfinite(path: object, lines: list[str], allowed: bool) -> None:
    """Raises ConversionError where there are lines on non-finite tensors, unless allowed."""
    if lines and not allowed:
        more = [f"... and {len(lines) - _LISTED} tensors more"] if len(lines) > _LISTED else []
        heading = (
            f"{path}: weights that are not finite (--allow-nonfinite converts them as they are):"
        )
        raise ConversionError("\n  ".join([heading, *lines[:_LISTED], *more]))


def about_nonfinite(name: str, tensor: np.ndarray) -> str | None:
    """A line on the values of a tensor that are not finite; None where all are."""
    bad = ~np.isfinite(tensor)
    if not bad.any():
        return None
    nan = int(np.isnan(tensor).sum())
    first = np.unravel_index(int(bad.argmax()), bad.shape)
    place = ", ".join(map(str, first))
    return (
        f"{name}: {nan} NaN and {int(bad.sum()) - nan} infinite of {tensor.size} values, the first "
        f"at [{place}]"
    )
