"""numpy's .npz archives, in which JAX projects publish weights, read without numpy.load.

Does what numpy.load does with `allow_pickle=False`, within the bounds of `Archive`, since an entry
may claim to be larger than the whole file.
"""

import io
import mmap
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.lib import format as npy

from vlt.convert.errors import ConversionError
from vlt.convert.files.archives import Archive
from vlt.convert.files.arrays import Tensors, bytes_of, dense_stride, make_array
from vlt.convert.files.impostors import impostor_or
from vlt.convert.files.mapped import aligned, map_file
from vlt.convert.files.resolve import naming

_SUFFIX = ".npy"
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_LONGEST_HEADER = 10_000  # in characters: an array's type and shape
_MOST_WORDS = 64  # between the slashes of a name


def is_npz(path: Path) -> bool:
    """Whether a file is a zip archive of numpy's arrays and nothing else."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # on a broken archive, zipfile may raise almost anything
        return path.suffix == ".npz"
    return bool(names) and all(name.endswith(_SUFFIX) for name in names)


def read_npz(path: Path) -> dict[str, Any]:
    """The arrays, read-only, in dicts nested by the slash-separated words of their names.

    Raises ConversionError: broken, two entries of one name, or an array not of plain numbers.
    """
    with naming(path):
        try:
            if not zipfile.is_zipfile(path):
                cut = f"broken zip archive, or cut short at {path.stat().st_size:,} bytes"
                raise ConversionError(impostor_or(path, cut))
            data = map_file(path)
        except (OSError, ValueError) as error:
            raise ConversionError(f"cannot be read: {error}") from error
        return nested(_read(Archive(path, data), data))


def _read(archive: Archive, data: mmap.mmap) -> Tensors:
    found = {}
    for entry in archive.entries:
        with naming(Path(entry)):
            found[entry.removesuffix(_SUFFIX)] = _array(archive.read(entry))
    return found


def _array(content: memoryview) -> np.ndarray:
    start = io.BytesIO(bytes(content[: 4 * _LONGEST_HEADER]))
    try:
        read_header = _HEADERS[npy.read_magic(start)]
        shape, fortran, dtype = read_header(start, max_header_size=_LONGEST_HEADER)
    except (KeyError, ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise ConversionError(f"no array of numpy's: {str(error)[:200]}") from error
    if dtype == np.dtype("V2"):
        dtype = np.dtype(ml_dtypes.bfloat16)  # numpy writes only its size
    if dtype.kind not in "biufc" and dtype != ml_dtypes.bfloat16:
        raise ConversionError(f"an array of {str(dtype)[:80]}, not of numbers; it is not read")
    held = content[start.tell() :]
    if any(type(n) is not int or n < 0 for n in shape) or bytes_of(dtype, shape) != held.nbytes:
        raise ConversionError(f"an array of shape {str(shape)[:80]}, which does not fit its bytes")
    whole = aligned(held, dtype.itemsize)
    return make_array(whole, dtype, 0, shape, dense_stride(shape, fortran))


def nested(arrays: Tensors) -> dict[str, Any]:
    """Arrays in dicts nested by the slash-separated words of their names.

    Raises ConversionError: a name that another one begins with, or that occurs twice.
    """
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *words, last = name.split("/", _MOST_WORDS)
        inside = tree
        for word in words:
            inside = inside.setdefault(word, {})
            if not isinstance(inside, dict):
                raise ConversionError(f"holds an array of a name that {name[:200]!r} begins with")
        if last in inside:
            raise ConversionError(f"holds two values of the name {name[:200]!r}")
        inside[last] = array
    return tree


def write_npz(path: Path, tensors: Tensors, root: str) -> None:
    """Writes tensors with slashes for the dots in their names, after a first word `root`."""
    named = {f"{root}/{name.replace('.', '/')}": x for name, x in tensors.items()}
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **named)
