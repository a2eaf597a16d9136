"""safetensors files, with types that numpy lacks, and broken in every way."""

import json
import re
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from vlt.convert.errors import ConversionError
from vlt.convert.files.safetensors_files import read_safetensors

ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def _write(path: Path, header: dict[str, Any] | bytes, data: bytes = b"\0\0\0\0") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


@pytest.mark.parametrize(
    "dtype",
    [
        *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
        *("float16", "bfloat16", "float32", "float64", "complex64"),
        *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"),
    ],
)
def test_every_type_bit_for_bit(tmp_path: Path, dtype: str):
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    tensors = {
        "grid": np.array([[0, 1, 1], [0.5, 0.25, 3]], np.float32).astype(kind),
        "scalar": np.array(1, np.float32).astype(kind),
        "empty": np.zeros((0, 3), kind),
        "beside": np.ones(2, np.float32),
    }
    safetensors.numpy.save_file(tensors, tmp_path / "x.safetensors")
    read = read_safetensors(tmp_path / "x.safetensors")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (read[name].dtype, read[name].shape) == (tensor.dtype, tensor.shape), name
        assert read[name].tobytes() == tensor.tobytes(), name


@pytest.mark.parametrize(
    ("kind", "shape", "size"), [("F4", [4], 2), ("F6_E2M3", [4], 3), ("F8_E8M0", [4], 4)]
)
def test_types_that_are_no_weights_are_named(
    tmp_path: Path, kind: str, shape: list[int], size: int
):
    header = {"a.weight": {"dtype": kind, "shape": shape, "data_offsets": [0, size]}}
    path = _write(tmp_path / "x.safetensors", header, bytes(size))
    with pytest.raises(ConversionError, match=f"{path}: tensor a.weight is of type {kind}"):
        read_safetensors(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": ONE | {"dtype": "Q3"}}, "unknown variant `Q3`"),
        ({"a": ONE | {"shape": [-1]}}, "invalid value"),
        ({"a": ONE | {"shape": [2]}}, "shape"),
        ({"a": ONE | {"shape": [1] * 100}}, "tensor a: a tensor of 100 axes"),
        ({"a": ONE, "b": ONE}, "invalid offset for tensor"),
        ({"a": ONE | {"data_offsets": [0, 3]}}, "broken safetensors"),
        ({"a": ONE, "__metadata__": {"b": 1}}, "expected a string"),
        (b'{"a":' + json.dumps(ONE).encode() + b',"a":' + json.dumps(ONE).encode() + b"}", "twice"),
        (b'{"\xff": {}}', "invalid UTF-8"),
        (b'{"a":' * 5000, "broken safetensors"),
        (b"[]", "broken safetensors"),
    ],
)
def test_odd_headers_are_one_sentence(tmp_path: Path, header: Any, message: str):
    path = _write(tmp_path / "x.safetensors", header)
    with pytest.raises(ConversionError, match=f"^{path}: .*{message}"):
        read_safetensors(path)


def test_an_empty_tensor_of_impossible_size(tmp_path: Path):
    header = {"a": {"dtype": "F32", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}}
    path = _write(tmp_path / "x.safetensors", header, b"")
    with pytest.raises(ConversionError, match="tensor a: a tensor of more than [0-9]+ elements"):
        read_safetensors(path)


@pytest.mark.parametrize("left", [1000, 100, 12])
def test_a_download_cut_short_says_how_much_is_there(tmp_path: Path, left: int):
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file({"a": np.ones(300, np.float32), "b": np.ones(3)}, path)
    whole = path.stat().st_size
    path.write_bytes(path.read_bytes()[:left])
    known = f"{whole:,}" if left > 200 else r"at least [\d,]+"
    with pytest.raises(ConversionError, match=rf"cut short: {left:,} of {known} bytes are here"):
        read_safetensors(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\nsize 77\n", "a git-lfs pointer"),
        (b"<html><head><title>404</title>", "a web page with the title '404'"),
        (b"", "an empty file"),
        (b"abc\0", "broken safetensors file"),
    ],
)
def test_another_file_is_named(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ConversionError, match=f"^{re.escape(str(path))}: {message}"):
        read_safetensors(path)
