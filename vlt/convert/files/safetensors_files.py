"""Reads safetensors files as numpy arrays, including element types that numpy lacks."""

import mmap
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors

from vlt.convert.errors import ConversionError
from vlt.convert.files.arrays import dense_stride, make_array
from vlt.convert.files.impostors import describe_impostor
from vlt.convert.files.json_files import parse_json
from vlt.convert.files.mapped import aligned, map_file

_SIZE = struct.Struct("<Q")
_MOST_HEADER = 100_000_000  # bytes, the format's limit
_DTYPES = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "U16": np.uint16,
    "I16": np.int16,
    "U32": np.uint32,
    "I32": np.int32,
    "U64": np.uint64,
    "I64": np.int64,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F32": np.float32,
    "F64": np.float64,
    "C64": np.complex64,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
}
CODES = {np.dtype(kind): code for code, kind in _DTYPES.items()}


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors by name, as read-only views of the file.

    Raises ConversionError: the file is broken, cut short or of another kind, holds a name twice,
    or an element type outside `_DTYPES` (tensor and type are named).
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:  # checks all offsets
            size, text = _header(path)
            header = parse_json(text, path)  # the library takes the last of two equal names
            types = {name: file.get_slice(name).get_dtype() for name in file.offset_keys()}
        _check_types(path, types)
        data = map_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise ConversionError(f"{path}: {_trouble(path, error)}") from error
    start = _SIZE.size + size
    return {name: _view(path, data, start, name, header[name]) for name in types}


def _check_types(path: Path, types: dict[str, str]) -> None:
    for name, kind in types.items():
        if kind not in _DTYPES:
            raise ConversionError(
                f"{path}: tensor {name} is of type {kind}, which can't be read; save it as one of "
                f"{', '.join(sorted(_DTYPES))}"
            )


def _view(path: Path, data: mmap.mmap, start: int, name: str, entry: dict) -> np.ndarray:
    dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"])
    first, end = (start + place for place in entry["data_offsets"])
    part = aligned(memoryview(data)[first:end], dtype.itemsize)
    try:
        return make_array(part, dtype, 0, shape, dense_stride(shape))
    except ConversionError as error:
        raise ConversionError(f"{path}: tensor {name}: {error}") from error


def _header(path: Path) -> tuple[int, bytes]:
    """The header's size as the file states it, and as much of the header as there is."""
    with path.open("rb") as file:
        start = file.read(_SIZE.size)
        size = _SIZE.unpack(start)[0] if len(start) == _SIZE.size else 0
        return size, file.read(size) if size <= _MOST_HEADER else b""


def _trouble(path: Path, error: Exception) -> str:
    """Describes what is wrong with a file that the library refused."""
    return describe_impostor(path) or _cut_short(path) or f"broken safetensors file: {error}"


def _cut_short(path: Path) -> str | None:
    """Says how much of a file is there, if that is less than its header claims; else None."""
    present, (size, header) = path.stat().st_size, _header(path)
    if not header.startswith(b"{"):
        return None
    whole, at_least = _SIZE.size + size, "at least "
    if len(header) == size:
        try:
            whole, at_least = whole + _data_size(parse_json(header, path)), ""
        except ConversionError:
            return None
    if present >= whole:
        return None
    return (
        f"a download cut short: {present:,} of {at_least}{whole:,} bytes are here; download it "
        "again"
    )


def _data_size(header: dict) -> int:
    """Number of bytes after a header, by the tensors' offsets in it."""
    ends = [0]
    for entry in header.values():
        places = entry.get("data_offsets") if isinstance(entry, dict) else None
        if isinstance(places, list) and len(places) == 2 and type(places[1]) is int:
            ends.append(places[1])
    return max(ends)
