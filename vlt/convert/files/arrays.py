"""The one place where bytes of a file become an array, and the supported element types."""

import itertools
import math
from typing import Any

import ml_dtypes
import numpy as np

from vlt.convert.errors import ConversionError
from vlt.pytrees.fields import near

Tensors = dict[str, np.ndarray]
DTYPES: dict[str, np.dtype] = {
    name: np.dtype(kind)
    for name, kind in {
        "float16": np.float16,
        "bfloat16": ml_dtypes.bfloat16,
        "float32": np.float32,
        "float64": np.float64,
        "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
        "float8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
        "float8_e5m2": ml_dtypes.float8_e5m2,
        "float8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
        "int8": np.int8,
        "int16": np.int16,
        "int32": np.int32,
        "int64": np.int64,
        "uint8": np.uint8,
        "uint16": np.uint16,
        "uint32": np.uint32,
        "uint64": np.uint64,
        "bool": np.bool_,
        "complex64": np.complex64,
        "complex128": np.complex128,
    }.items()
}


def dtype_named(name: str) -> np.dtype:
    """The dtype of real numbers of this name.

    Raises ConversionError: there is none (the nearest is suggested, or all are listed).
    """
    real = {known: dtype for known, dtype in DTYPES.items() if dtype.kind != "c"}
    if name not in real:
        raise ConversionError(f"source.dtypes: unknown dtype {name!r}{near(name, real)}")
    return real[name]


# numpy's codes for plain numbers, without the character for their byte order.
NUMPY_CODES = (
    *("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"),
    *("f2", "f4", "f8", "c8", "c16"),
)

_MOST_DIMENSIONS = 32
_MOST_ELEMENTS = 2**48


def is_count(value: Any) -> bool:
    """Whether the value is a plain int of at least 0: not a bool, a numpy number or a subclass."""
    return type(value) is int and value >= 0


def bytes_of(dtype: np.dtype, size: tuple[int, ...]) -> int:
    """Number of bytes that an array of this size takes when written out."""
    return math.prod(size) * dtype.itemsize


def make_array(
    data: memoryview, dtype: np.dtype, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> np.ndarray:
    """The read-only view [*size] of `data`; offset and stride in elements.

    Everything is computed with Python's integers, and numpy checks the result against the buffer
    again.

    Raises: ConversionError for a view that reaches outside `data`, or that is invalid.
    """
    numbers = (offset, *size, *stride)
    if len(size) > _MOST_DIMENSIONS:
        raise ConversionError(f"a tensor of {len(size)} axes; at most {_MOST_DIMENSIONS} are read")
    if len(size) != len(stride) or not all(map(is_count, numbers)):
        raise ConversionError(
            "a tensor whose size, stride and offset are not counts, or do not fit"
        )
    if math.prod(n for n in size if n) > _MOST_ELEMENTS:
        raise ConversionError(f"a tensor of more than {_MOST_ELEMENTS} elements")
    if 0 in size:
        return np.broadcast_to(np.zeros((), dtype), size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    held = data.nbytes // dtype.itemsize
    if last >= held:
        raise ConversionError(f"a tensor of size {list(size)} reaches past its {held} elements")
    # The stride of a dimension of one element is never used, and may be any number.
    steps = [step * dtype.itemsize if n > 1 else 0 for n, step in zip(size, stride, strict=True)]
    return np.ndarray(size, dtype, data, offset * dtype.itemsize, steps)


def dense_stride(size: tuple[int, ...], fortran: bool = False) -> tuple[int, ...]:
    """Strides, in elements, of a contiguous array."""
    order = size[:-1] if fortran else size[:0:-1]
    stride = tuple(itertools.accumulate(order, lambda a, b: a * b, initial=1))[: len(size)]
    return stride if fortran else stride[::-1]
