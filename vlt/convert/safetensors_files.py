"""Tensors of a safetensors file as numpy, those of element types that numpy lacks among them."""

import mmap
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors

from vlt.convert.arrays import dense_stride, make_array
from vlt.convert.errors import ConversionError
from vlt.convert.impostors import describe_impostor
from vlt.convert.json_files import parse_json
from vlt.convert.mapped import aligned, map_file

_SIZE = struct.Struct("<Q")
_MOST_HEADER = 100_000_000  # bytes, of the format
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

    Raises ConversionError: broken, cut short, another kind of file, a name twice, or an element
    type that is no number of its own bytes (tensor and type are named).
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:  # checks the places of all
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
    """What a file says its header's size is, and the header, as much of it as there is."""
    with path.open("rb") as file:
        start = file.read(_SIZE.size)
        size = _SIZE.unpack(start)[0] if len(start) == _SIZE.size else 0
        return size, file.read(size) if size <= _MOST_HEADER else b""


def _trouble(path: Path, error: Exception) -> str:
    """What is wrong with a file that the library refused."""
    return describe_impostor(path) or _cut_short(path) or f"broken safetensors file: {error}"


def _cut_short(path: Path) -> str | None:
    """How much of a file is there, if less than its header says."""
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
    """Bytes behind a header, as the tensors' places in it say."""
    ends = [0]
    for entry in header.values():
        places = entry.get("data_offsets") if isinstance(entry, dict) else None
        if isinstance(places, list) and len(places) == 2 and type(places[1]) is int:
            ends.append(places[1])
    return max(ends)
