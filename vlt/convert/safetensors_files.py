"""Tensors of a safetensors file as numpy, those of element types that numpy lacks among them."""

import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors

from vlt.convert.errors import ConversionError
from vlt.convert.impostors import describe_impostor
from vlt.convert.json_files import parse_json

_SIZE = struct.Struct("<Q")
_MOST_HEADER = 100_000_000  # bytes, of the format
_NUMPY = {
    *("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"),
    *("F16", "BF16", "F32", "F64", "C64"),
}
# safetensors asks numpy for these, which has them only in ml_dtypes.
_FLOAT8 = {
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
}


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors by name.

    Raises ConversionError: broken, cut short, another kind of file, a name twice, or an element
    type that is no number of its own bytes (tensor and type are named).
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            parse_json(_header(path)[1], path)  # the library takes the last of two equal names
            types = {name: file.get_slice(name).get_dtype() for name in file.offset_keys()}
            _check_types(path, types)
            tensors = {name: _numpy(path, file, name) for name in types if types[name] in _NUMPY}
    except (safetensors.SafetensorError, OSError) as error:
        raise ConversionError(f"{path}: {_trouble(path, error)}") from error
    return tensors | (_float8(path) if len(tensors) < len(types) else {})


def _check_types(path: Path, types: dict[str, str]) -> None:
    for name, kind in types.items():
        if kind not in _NUMPY and kind not in _FLOAT8:
            raise ConversionError(
                f"{path}: tensor {name} is of type {kind}, which can't be read; save it as one of "
                f"{', '.join(sorted(_NUMPY | _FLOAT8.keys()))}"
            )


def _numpy(path: Path, file: safetensors.safe_open, name: str) -> np.ndarray:
    try:
        return file.get_tensor(name)
    except ValueError as error:  # more axes than numpy has, or a size beyond memory beside a 0
        raise ConversionError(f"{path}: tensor {name}: {error}") from error


def _float8(path: Path) -> dict[str, np.ndarray]:
    return {
        name: np.frombuffer(entry["data"], _FLOAT8[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in safetensors.deserialize(path.read_bytes())
        if entry["dtype"] in _FLOAT8
    }


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
