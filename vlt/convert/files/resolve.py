"""Turns placeholders into dicts and arrays, in time and memory bounded by the file's size."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vlt.convert.errors import ConversionError
from vlt.convert.files.arrays import DTYPES, bytes_of, dense_stride, make_array
from vlt.convert.files.pickles import parse
from vlt.convert.files.placeholders import Module, NumpyArray, NumpyType, Opaque, Storage, Tensor

_DEEPEST = 100
_LEAF = 8
_EXPANSION = 8
_ALWAYS = 16 * 2**20


def read_pickle(path: Path) -> Any:
    """The plain values and numpy arrays of a pickle file. Nothing that it holds is executed.

    Raises: ConversionError, naming the file; UnsafePickleError for one that asks for code; OSError.
    """
    data = path.read_bytes()
    with naming(path):
        return resolve(parse(data).value, len(data))


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Puts the file's name in front of the messages of ConversionErrors."""
    try:
        yield
    except ConversionError as error:
        raise type(error)(f"{path}: {error}") from error


def resolve(
    value: Any, file_size: int, bytes_under: Callable[[Storage], memoryview] | None = None
) -> Any:
    """Makes plain containers of plain values and arrays; TorchScript modules become dicts.

    What the pickle shares stays shared: each container is made once. Written out without sharing
    (as dotted names, texts and arrays), the result may not be longer than 8 times the file plus
    16 MiB, so that walking it takes no more than the file's size allows.

    Args:
      bytes_under: returns the whole bytes of a storage.

    Raises: ConversionError for a result that is larger, deeper than 100 containers, or contains
      itself, and for tensors that leave their storage.
    """
    found = _Resolver(bytes_under, _EXPANSION * file_size + _ALWAYS).resolve(value, 0)
    return found.value


@dataclasses.dataclass(slots=True)
class _Found:
    """length: bytes when written out. leaves: number of values that then have their own name."""

    value: Any
    length: int = _LEAF
    leaves: int = 1


class _Resolver:
    def __init__(self, bytes_under: Callable[[Storage], memoryview] | None, most: int) -> None:
        self.bytes_under = bytes_under
        self.most = most
        # By id of the value, which its container keeps alive; None while it is being made.
        self.made: dict[int, _Found | None] = {}

    def resolve(self, value: Any, depth: int) -> _Found:
        kind = type(value)
        if kind in (str, bytes):
            return self.checked(_Found(value, _LEAF + len(value)))
        if kind in _ALONE:
            return _Found(Opaque(_ALONE[kind]))
        make = _MAKERS.get(kind)
        if make is None:
            return _Found(value)
        if id(value) not in self.made:
            if depth > _DEEPEST:
                raise ConversionError(f"holds containers more than {_DEEPEST} deep")
            self.made[id(value)] = None
            self.made[id(value)] = self.checked(make(self, value, depth))
        found = self.made[id(value)]
        if found is None:
            raise ConversionError("holds a container that contains itself")
        return found

    def checked(self, found: _Found) -> _Found:
        if found.length > self.most:
            raise ConversionError(
                "its shared or expanded parts would take more than "
                f"{_EXPANSION} times the size of the file"
            )
        return found

    def of_dict(self, value: dict, depth: int) -> _Found:
        result = _Found({}, _LEAF, 0)
        for key, item in value.items():
            found = self.resolve(item, depth + 1)
            result.value[key] = found.value
            result.length += found.length + _key_length(key) * found.leaves
            result.leaves += found.leaves
            self.checked(result)
        result.leaves = max(1, result.leaves)
        return result

    def of_module(self, value: Module, depth: int) -> _Found:
        return self.of_dict(value.attributes, depth)

    def of_items(self, value: list | tuple, depth: int) -> _Found:
        found = [self.resolve(item, depth + 1) for item in value]
        items = type(value)(one.value for one in found)
        length = _LEAF + sum(one.length for one in found)
        return _Found(items, length, max(1, sum(one.leaves for one in found)))

    def of_tensor(self, value: Tensor, depth: int) -> _Found:
        del depth
        dtype = DTYPES[value.kind]
        length = _LEAF + bytes_of(dtype, value.size)
        self.checked(_Found(None, length))
        if self.bytes_under is None:
            raise ConversionError("holds a tensor, whose numbers are not in the file")
        storage = value.storage
        width = DTYPES[storage.kind].itemsize
        first, end = storage.first * width, (storage.first + storage.count) * width
        data = self.bytes_under(storage)
        if end > data.nbytes:
            raise ConversionError(f"storage {storage.key[:80]} is cut short")
        array = make_array(data[first:end], dtype, value.offset, value.size, value.stride)
        return _Found(array, length)

    def of_array(self, value: NumpyArray, depth: int) -> _Found:
        del depth
        if value.kind is None:
            raise ConversionError("a numpy array without its state")
        if not value.kind.code:
            return _Found(Opaque("numpy.ndarray"))
        dtype = np.dtype(value.kind.code)
        if value.kind.order == ">":
            dtype = dtype.newbyteorder(">")
        data = value.data if type(value.data) is bytes else str(value.data).encode("utf-8")
        if bytes_of(dtype, value.shape) != len(data):
            raise ConversionError("a numpy array whose shape does not fit its bytes")
        stride = dense_stride(value.shape, value.fortran)
        array = make_array(memoryview(data), dtype, 0, value.shape, stride)
        return _Found(array, _LEAF + array.nbytes)


def _key_length(key: Any) -> int:
    if type(key) is tuple:
        return sum(map(_key_length, key))
    return len(key) if type(key) in (str, bytes) else len(str(key))


# Placeholders that are of no use to a reader on their own.
_ALONE = {Storage: "torch.storage", NumpyType: "numpy.dtype"}
_MAKERS: dict[type, Callable[[_Resolver, Any, int], _Found]] = {
    dict: _Resolver.of_dict,
    Module: _Resolver.of_module,
    list: _Resolver.of_items,
    tuple: _Resolver.of_items,
    Tensor: _Resolver.of_tensor,
    NumpyArray: _Resolver.of_array,
}
