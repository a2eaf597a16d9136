"""Tensors and arrays that a pickle's calls make: placeholders whose numbers are checked."""

import re
import struct
from collections.abc import Callable
from typing import Any

from vlt.convert.errors import ConversionError
from vlt.convert.files.arrays import DTYPES, NUMPY_CODES, is_count
from vlt.convert.files.placeholders import Name, NumpyArray, NumpyType, Opaque, Storage, Tensor

_STORAGES = {
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "CharStorage": "int8",
    "ShortStorage": "int16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "uint8",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}
STORAGE_KINDS = {
    f"{module}.{name}": kind
    for module in ("torch", "torch.storage")
    for name, kind in _STORAGES.items()
}
# struct formats by numpy's codes: scalars become Python's numbers.
_SCALARS = dict(zip(NUMPY_CODES[:12], "?bhiqBHIQefd", strict=True)) | {"c8": "ff", "c16": "dd"}


def _device(args: tuple) -> str:
    kind, index = (*args, 0)[:2] if args else (None, 0)
    if type(kind) is not str or len(kind) > 40 or not is_count(index) or index > 10_000:
        raise ConversionError("a torch.device that names none")
    return f"{kind}:{index}" if len(args) > 1 else kind


def _tensor(args: tuple) -> Tensor:
    """_rebuild_tensor(storage, offset, size, stride); _v2 adds (requires_grad, hooks, flags)."""
    if not 4 <= len(args) <= 7 or (len(args) == 7 and args[6]):
        raise ConversionError("a tensor that is conjugated, negated or of an unknown form")
    return _checked_tensor("", *args[:4])


def _tensor_v3(args: tuple) -> Tensor:
    """(storage, offset, size, stride, requires_grad, hooks, dtype[, flags])"""
    if not 7 <= len(args) <= 8 or (len(args) == 8 and args[7]):
        raise ConversionError("a tensor that is conjugated, negated or of an unknown form")
    kind = args[6].full.removeprefix("torch.") if type(args[6]) is Name else ""
    if kind not in DTYPES:
        raise ConversionError(f"a tensor of the element type {kind or type(args[6]).__name__}")
    return _checked_tensor(kind, *args[:4])


def _checked_tensor(kind: str, storage: Any, offset: Any, size: Any, stride: Any) -> Tensor:
    if type(storage) is not Storage:
        raise ConversionError(f"a tensor over a {type(storage).__name__} instead of a storage")
    if type(size) is not tuple or type(stride) is not tuple:
        raise ConversionError("a tensor whose size or stride is not a tuple")
    if not all(map(is_count, (offset, *size, *stride))):
        raise ConversionError("a tensor whose size, stride or offset is not a count")
    return Tensor(storage, kind or storage.kind, offset, size, stride)


def _parameter(args: tuple) -> Tensor:
    if not args or type(args[0]) is not Tensor:
        raise ConversionError("a parameter that is not a tensor")
    return args[0]


def _subclass(args: tuple) -> Tensor:
    """(function, class, arguments, state) -> the tensor that the function makes, alone."""
    if len(args) == 4 and type(args[0]) is Name and type(args[2]) is tuple:
        build = _TENSORS.get(args[0].full)
        if build:
            return build(args[2])
    raise ConversionError("a tensor subclass that is made by no function of torch's tensors")


def _typed(args: tuple) -> Any:
    if not args:
        raise ConversionError("a TorchScript list or tag around nothing")
    return args[0]


def _numpy_type(args: tuple) -> NumpyType:
    """(code, align, copy)"""
    code = args[0] if args and type(args[0]) is str and len(args[0]) <= 40 else ""
    order, plain = (code[0], code[1:]) if code[:1] in ("<", ">", "|", "=") else ("=", code)
    if plain in NUMPY_CODES:
        return NumpyType(plain, order)
    if re.fullmatch(r"[SUmM][0-9]{1,9}", plain, re.ASCII):
        return NumpyType("", order)
    raise ConversionError(f"numpy dtype {code!r} is not a plain number")


def _empty_array(args: tuple) -> NumpyArray:
    if not args or type(args[0]) is not Name or args[0].full != "numpy.ndarray":
        raise ConversionError("a numpy array of another class than numpy.ndarray")
    return NumpyArray()


def _array_from_buffer(args: tuple) -> NumpyArray:
    """(data, dtype, shape, "C" or "F"), as protocol 5 writes an array."""
    if len(args) != 4 or args[3] not in ("C", "F"):
        raise ConversionError("a numpy array of an unknown form")
    array = NumpyArray()
    fill_array(array, (1, args[2], args[1], args[3] == "F", args[0]))
    return array


def fill_array(array: NumpyArray, state: Any) -> None:
    """Sets an array's state, (version, shape, dtype, fortran, data).

    Raises: ConversionError for a state of another form, or a second one.
    """
    if type(state) is not tuple or len(state) != 5 or array.kind:
        raise ConversionError("a numpy array with a state of an unknown form")
    _, shape, kind, fortran, data = state
    shape = (shape,) if type(shape) is int else shape
    if type(shape) is not tuple or not all(map(is_count, shape)) or type(fortran) is not bool:
        raise ConversionError("a numpy array whose shape holds no counts")
    if type(kind) is not NumpyType or (kind.code and type(data) not in (bytes, str)):
        raise ConversionError("a numpy array that is not made of bytes of plain numbers")
    array.shape, array.kind, array.fortran = shape, kind, fortran
    array.data = data if kind.code else b""


def order_type(kind: NumpyType, state: Any) -> None:
    """Sets a dtype's byte order from its state, (version, order, ...).

    Raises: ConversionError for a state of another form.
    """
    if type(state) is not tuple or not 2 <= len(state) <= 9 or state[1] not in ("<", ">", "=", "|"):
        raise ConversionError("a numpy dtype with a state of an unknown form")
    kind.order = state[1]


def _numpy_scalar(args: tuple) -> Any:
    """(dtype, bytes) -> a Python number, or Opaque for text and times."""
    kind, data = (*args, None, None)[:2]
    if type(kind) is not NumpyType or len(args) != 2:
        raise ConversionError("a numpy number of an unknown form")
    if not kind.code:
        return Opaque("numpy.generic")
    if type(data) is str and len(data) <= 16:  # as Python 2 wrote it
        data = data.encode("utf-8")
    form = (">" if kind.order == ">" else "<") + _SCALARS[kind.code]
    if type(data) is not bytes or len(data) != struct.calcsize(form):
        raise ConversionError("a numpy number that is not made of its bytes")
    numbers = struct.unpack(form, data)
    return numbers[0] if len(numbers) == 1 else complex(*numbers)


_TENSORS: dict[str, Callable[[tuple], Tensor]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
}
ARRAY_CALLS: dict[str, Callable[[tuple], Any]] = {
    **_TENSORS,
    **{
        f"torch.jit._pickle.build_{kind}list": _typed
        for kind in ("int", "tensor", "bool", "double")
    },
    **{
        f"{core}.{name}": make
        for core in ("numpy.core", "numpy._core")
        for name, make in (
            ("multiarray._reconstruct", _empty_array),
            ("multiarray.scalar", _numpy_scalar),
            ("numeric._frombuffer", _array_from_buffer),
        )
    },
    "torch._tensor._rebuild_from_type_v2": _subclass,
    "torch.jit._pickle.restore_type_tag": _typed,
    "torch.device": _device,
    "numpy.dtype": _numpy_type,
}
