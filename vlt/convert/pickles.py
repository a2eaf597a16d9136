"""A pickle reader that rebuilds tensors and plain containers, and can run nothing else.

Every global a pickle names is looked up in one closed table; nothing is ever imported. torch is not
needed: its rebuild functions are replaced by functions over numpy arrays.
"""

import collections
import dataclasses
import pickle
from collections.abc import Callable
from typing import IO, Any

import ml_dtypes
import numpy as np

from vlt.convert.errors import ConversionError, UnsafePickleError

DTYPES: dict[str, np.dtype] = {
    name: np.dtype(kind)
    for name, kind in {
        "float16": np.float16,
        "bfloat16": ml_dtypes.bfloat16,
        "float32": np.float32,
        "float64": np.float64,
        "int8": np.int8,
        "int16": np.int16,
        "int32": np.int32,
        "int64": np.int64,
        "uint8": np.uint8,
        "bool": np.bool_,
    }.items()
}

STORAGES: dict[str, str] = {
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
}


class Inert:
    """Stands for an object of a class that is not loaded: its attributes, and no behaviour."""

    def __init__(self, *args: Any) -> None:
        del args


@dataclasses.dataclass(frozen=True, slots=True)
class _Function:
    """A callable whose attributes a pickle can't set."""

    call: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        return self.call(*args)


@dataclasses.dataclass(frozen=True, slots=True)
class ElementType:
    """A torch dtype or storage class. Not a numpy dtype: those have a state a pickle can set."""

    dtype: np.dtype


def rebuild_tensor(
    storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> np.ndarray:
    """View of a flat storage; refuses a view that leaves it."""
    if len(size) != len(stride) or min((offset, *size, *stride)) < 0:
        raise ValueError(f"tensor of size {size}, stride {stride}, offset {offset}")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and last >= storage.size:
        raise ValueError(f"tensor of size {size} reaches past its storage of {storage.size}")
    if 0 in size:
        return np.empty(size, storage.dtype)
    strides = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False)


def _rebuild_tensor_v3(
    storage: np.ndarray,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool,
    hooks: Any,
    kind: ElementType,
    *_: Any,
) -> np.ndarray:
    del requires_grad, hooks
    return rebuild_tensor(storage.view(kind.dtype), offset, size, stride)


def _rebuild_parameter(data: np.ndarray, *_: Any) -> np.ndarray:
    return data


def _rebuild_from_type(function: Any, kind: Any, args: tuple, state: Any) -> Any:
    del kind, state
    if not isinstance(function, _Function):
        raise ValueError("a tensor subclass without a rebuild function")
    return function(*args)


class _NumpyDtype:
    """numpy.dtype of a pickle: plain numbers only."""

    def __init__(self, code: str, *_: Any) -> None:
        self.dtype = np.dtype(code)
        if self.dtype.kind not in "biufcSU":
            raise ValueError(f"numpy dtype {code!r} is not a plain number")

    def __setstate__(self, state: tuple) -> None:
        if state[1] in "<>=":
            self.dtype = self.dtype.newbyteorder(state[1])


class _NumpyArray:
    """numpy.ndarray of a pickle, filled from bytes."""

    array: np.ndarray

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, fortran, data = state
        flat = np.frombuffer(data, kind.dtype)
        self.array = flat.reshape(shape, order="F" if fortran else "C")


def _numpy_scalar(kind: _NumpyDtype, data: bytes) -> Any:
    return np.frombuffer(data, kind.dtype)[0]


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise ValueError(f"bytes in encoding {encoding!r}")
    return text.encode("latin1")


def _inert_getattr(owner: Any, name: str) -> None:
    # mmengine's meters hold bound methods of an inert class; nothing is looked up.
    if not (isinstance(owner, type) and issubclass(owner, Inert)):
        raise ValueError(f"getattr for {name!r}")


def _inert_class(name: str) -> type:
    return type(name.rpartition(".")[2], (Inert,), {})


def _globals() -> dict[str, Any]:
    """Everything a pickle may name. Made anew for each file, so that no file can alter it."""
    table: dict[str, Any] = {
        "collections.OrderedDict": collections.OrderedDict,
        "collections.defaultdict": collections.defaultdict,
        "torch.Size": _Function(lambda size=(): tuple(size)),
        "torch.device": _Function(lambda *args: ":".join(map(str, args))),
        "torch._utils._rebuild_tensor": _Function(rebuild_tensor),
        "torch._utils._rebuild_tensor_v2": _Function(rebuild_tensor),
        "torch._utils._rebuild_tensor_v3": _Function(_rebuild_tensor_v3),
        "torch._utils._rebuild_parameter": _Function(_rebuild_parameter),
        "torch._utils._rebuild_parameter_with_state": _Function(_rebuild_parameter),
        "torch._tensor._rebuild_from_type_v2": _Function(_rebuild_from_type),
        "torch.Tensor": _inert_class("Tensor"),
        "torch.nn.parameter.Parameter": _inert_class("Parameter"),
        "torch.jit._pickle.restore_type_tag": _Function(lambda value, kind: value),
        "_codecs.encode": _Function(_encode),
        "numpy.ndarray": _inert_class("ndarray"),
        "numpy.dtype": _NumpyDtype,
    }
    for module in ("builtins", "__builtin__"):
        for kind in (set, frozenset, list, dict, tuple, complex):
            table[f"{module}.{kind.__name__}"] = _Function(kind)
        table[f"{module}.getattr"] = _Function(_inert_getattr)
    for core in ("numpy.core", "numpy._core"):
        table[f"{core}.multiarray._reconstruct"] = _Function(lambda *args: _NumpyArray())
        table[f"{core}.multiarray.scalar"] = _Function(_numpy_scalar)
    for element in ("int", "tensor", "bool", "double"):
        table[f"torch.jit._pickle.build_{element}list"] = _Function(list)
    for name, dtype in DTYPES.items():
        table[f"torch.{name}"] = ElementType(dtype)
    for name, element in STORAGES.items():
        for module in ("torch", "torch.storage"):
            table[f"{module}.{name}"] = ElementType(DTYPES[element])
    for name in ("mmengine.logging.history_buffer.HistoryBuffer", "argparse.Namespace"):
        table[name] = _inert_class(name)
    return table


class RestrictedUnpickler(pickle.Unpickler):
    """Unpickler of one stream. Classes under `__torch__` (TorchScript) become inert containers.

    storage: (element dtype, key, number of elements) -> flat array, for torch's persistent ids.
    """

    def __init__(
        self,
        stream: IO[bytes],
        source: str,
        storage: Callable[[np.dtype, str, int], np.ndarray] | None = None,
    ) -> None:
        super().__init__(stream, encoding="utf-8")
        self._source = source
        self._storage = storage
        self._globals = _globals()

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a global, or UnsafePickleError."""
        full = f"{module}.{name}"
        if module == "__torch__" or module.startswith("__torch__."):
            return self._globals.setdefault(full, _inert_class(full))
        if full not in self._globals:
            raise UnsafePickleError(
                f"{self._source}: the pickle asks for {full}, which is neither a tensor nor a "
                "plain container; nothing was run. Save the state dict alone, or as safetensors."
            )
        return self._globals[full]

    def persistent_load(self, pid: Any) -> np.ndarray:
        """('storage', type, key, location, count[, (view key, offset, count)]) -> flat array."""
        if self._storage is None or not isinstance(pid, tuple) or pid[0] != "storage":
            raise UnsafePickleError(f"{self._source}: unknown persistent object {str(pid)[:80]}")
        _, kind, key, _, count, *view = pid
        flat = self._storage(kind.dtype, key, count)
        if view and view[0] is not None:
            _, start, length = view[0]
            flat = flat[start : start + length]
        return flat

    def read(self) -> Any:
        """The object, or ConversionError naming the file."""
        try:
            return self.load()
        except ConversionError:
            raise
        except Exception as error:  # a broken stream can raise almost anything
            raise ConversionError(f"{self._source}: broken pickle: {error!r}") from error
