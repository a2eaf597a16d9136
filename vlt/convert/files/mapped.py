"""Memory-mapped files: arrays are views of them, and pages are released once read."""

import mmap
from pathlib import Path

import numpy as np

_ALIGNMENT = 16


def map_file(path: Path) -> mmap.mmap:
    """The content of a non-empty file, read-only.

    Raises: OSError, ValueError.
    """
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def aligned(data: memoryview, to: int = _ALIGNMENT) -> memoryview:
    """The same bytes, copied if they do not start at a multiple of `to`."""
    if not data.nbytes:
        return data
    flat = np.frombuffer(data, np.uint8)
    at = flat.__array_interface__["data"][0]
    return data if at % to == 0 else flat.copy().data.toreadonly()


def release(data: mmap.mmap) -> None:
    """Releases the memory that pages of the file take; reading brings them back."""
    if hasattr(mmap, "MADV_DONTNEED"):
        data.madvise(mmap.MADV_DONTNEED)


def release_pages(array: np.ndarray) -> None:
    """Releases the pages of the file that an array is a view of, if it is one."""
    if (data := file_of(array)) is not None:
        release(data)


def file_of(array: np.ndarray) -> mmap.mmap | None:
    """The file that an array is a view of, if it is one."""
    base = array.base
    while isinstance(base, np.ndarray):
        base = base.base
    owner = base.obj if isinstance(base, memoryview) else base
    return owner if isinstance(owner, mmap.mmap) else None
