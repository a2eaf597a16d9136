"""The closed table of names that a pickle may use, and of what a call of each makes.

A name is text and stays text; nothing is imported, looked up or run, whatever a pickle names. So
the rules below are not what keeps a file from running code. They decide which files are read:

- `ARRAY_CALLS` and `CONTAINER_CALLS`: names with a meaning for weights and plain containers; each
  has its function in vlt.convert.files.pickle_arrays or pickle_containers.
- `_INERT`: objects of Python's own modules and of torch and numpy that honest checkpoints carry
  beside their weights (paths, dates, counters, ...). They become `Opaque`; what they hold is lost.
- `_HELD`: names that may be a value, but make nothing.
- All else in Python's own modules, torch (apart from optimizer, layer and TorchScript classes) and
  numpy is refused by name: the functions that hostile pickles call are found there, as are modules
  pickled whole.
- Classes of any other package (named tuples, enums and settings of somebody's project, omegaconf,
  lightning, ...) become `Opaque` where they are instantiated, or called and spelled like a class.
  A call of a name that is spelled like a function is refused.
"""

import sys
from _compat_pickle import IMPORT_MAPPING
from typing import Any

from vlt.convert.errors import ConversionError, UnsafePickleError
from vlt.convert.files.arrays import DTYPES
from vlt.convert.files.pickle_arrays import ARRAY_CALLS, STORAGE_KINDS
from vlt.convert.files.pickle_containers import CONTAINER_CALLS, Limits
from vlt.convert.files.placeholders import Module, Name, Opaque

_PATHS = ("Path", "PurePath", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
_INERT = frozenset(
    (
        *(f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in _PATHS),
        *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
        *(f"collections.{name}" for name in ("ChainMap", "UserDict", "UserList", "UserString")),
        *(f"{m}.{k}" for m in ("builtins", "__builtin__") for k in ("slice", "range", "xrange")),
        *(f"types.{name}" for name in ("SimpleNamespace", "GenericAlias", "MappingProxyType")),
        *(
            f"numpy.random._pickle.__{k}_ctor"
            for k in ("randomstate", "generator", "bit_generator")
        ),
        *("argparse.Namespace", "functools.partial", "random.Random", "time.struct_time"),
        *("decimal.Decimal", "fractions.Fraction", "uuid.UUID", "zoneinfo.ZoneInfo._unpickle"),
        *("numpy.random.bit_generator.SeedSequence", "torch.serialization._get_layout"),
        "numpy.random.bit_generator.__pyx_unpickle_SeedSequence",
        "_operator.or_",  # of two enum flags, as Python 3.11.0 to 3.11.3 write them
    )
)
_PLAIN = (
    *("bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "long"),
    *("object", "set", "str", "tuple", "type", "unicode", "Ellipsis", "NotImplemented"),
)
_TYPING = ("Any", "Callable", "Dict", "List", "Literal", "Optional", "Sequence", "Tuple", "Union")
_HELD = frozenset(
    (
        *(f"{m}.{k}" for m in ("builtins", "__builtin__") for k in _PLAIN),
        *(f"typing.{name}" for name in _TYPING),
        *(f"numpy.{code}" for code in ("ndarray", "bool_", "bool", "str_", "number", "generic")),
        *(f"numpy.{name}" for name in DTYPES if "bfloat" not in name and "float8" not in name),
        *(f"numpy.dtypes.{n.capitalize()}DType" for n in DTYPES if "8_" not in n and n[0] != "b"),
        *(
            f"numpy.random._{name.lower()}.{name}"
            for name in ("MT19937", "PCG64", "Philox", "SFC64")
        ),
        *("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"),
        *(f"torch.{name}" for name in DTYPES),
        *STORAGE_KINDS,
    )
)
# Tensors that torch writes, but that hold no plain array of numbers.
_NO_ARRAYS = {
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_sparse_csr_tensor": "a sparse tensor",
    "torch._utils._rebuild_qtensor": "a quantized tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "a tensor without values (meta)",
    "torch._utils._rebuild_nested_tensor": "a nested tensor",
    "torch._utils._rebuild_wrapper_subclass": "a tensor subclass without values of its own",
    "torch._utils._rebuild_device_tensor_from_numpy": "a tensor of another device",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": "a tensor of another device",
}
# Modules of this Python, of Python 2 (as pickle translates them) and of versions between.
_PYTHON = {*sys.stdlib_module_names, *(name.partition(".")[0] for name in IMPORT_MAPPING)}
_PYTHON |= {"asynchat", "asyncore", "distutils", "exceptions", "imp", "new", "pipes", "popen2"}
_CLOSED = frozenset(_PYTHON | {"torch", "numpy"})
_RECONSTRUCTORS = frozenset(f"{m}._reconstructor" for m in ("copyreg", "copy_reg"))
_NEW_OBJECTS = frozenset(f"{m}.__newobj__" for m in ("copyreg", "copy_reg"))
_ATTRIBUTES = frozenset(("builtins.getattr", "__builtin__.getattr"))
_TYPES = frozenset(("builtins.type", "__builtin__.type"))
_KNOWN = frozenset((*ARRAY_CALLS, *CONTAINER_CALLS, *_INERT, *_HELD))
_KNOWN |= _RECONSTRUCTORS | _NEW_OBJECTS | _ATTRIBUTES | _TYPES


def admit(full: str) -> Name:
    """The placeholder for a name.

    Raises: UnsafePickleError for a name outside the table; ConversionError for a tensor without
    plain numbers.
    """
    if full in _NO_ARRAYS:
        raise ConversionError(
            f"holds {_NO_ARRAYS[full]}; save the state dict with dense tensors of plain numbers, "
            "on the CPU"
        )
    if full in _KNOWN or _is_foreign(full) or _is_torch_class(full) or _is_script(full):
        return Name(full)
    raise UnsafePickleError(refusal(full))


def refusal(full: str) -> str:
    """The error message for a name, or an inert value, that a pickle may not call."""
    shown = full.encode("unicode_escape").decode()
    shown = shown if len(shown) <= 200 else f"{shown[:197]}..."
    return (
        f"the pickle asks for {shown}, which is neither a tensor nor a plain container; nothing "
        "was run. Save the state dict alone, or as safetensors."
    )


def _is_foreign(full: str) -> bool:
    """Whether a name is outside Python's own modules, torch and numpy, with no `__` attribute."""
    package, *rest = full.split(".")
    if package in _CLOSED and package != "__main__":
        return False
    if not rest or not all(part.isidentifier() and len(part) <= 200 for part in (package, *rest)):
        return False
    return package != "__torch__" and not any(part.startswith("__") for part in rest)


def _is_torch_class(full: str) -> bool:
    """Whether it is an optimizer or scheduler, or a layer's class, which a setting may name."""
    return full.startswith(("torch.optim.", "torch.nn.modules.")) and _is_class_like(full)


def _is_script(full: str) -> bool:
    """Whether it is a TorchScript class, which only its archive defines."""
    return full.startswith("__torch__.") and all(part.isidentifier() for part in full.split("."))


def _is_class_like(full: str) -> bool:
    return full.rpartition(".")[2].lstrip("_")[:1].isupper()


def call(name: Name, args: tuple, limits: Limits) -> Any:
    """What a call of `name` makes.

    Raises: UnsafePickleError for a name that may not be called; ConversionError.
    """
    full = name.full
    if full in _RECONSTRUCTORS:  # (class, base, state)
        return instantiate(_class_of(args), (), limits)
    if full in _NEW_OBJECTS:  # (class, *arguments)
        return instantiate(_class_of(args), args[1:], limits)
    if full in _ATTRIBUTES and len(args) == 2 and type(args[1]) is str and _is_inert(args[0]):
        # Enums and mmengine's meters ask for an attribute of a class that stays inert.
        owner = args[0]
        return Opaque(owner.full) if type(owner) is Name else owner
    if full in _TYPES and len(args) == 1 and args[0] is None:
        return Opaque("NoneType")
    if _is_foreign(full) and not _is_class_like(full):
        raise UnsafePickleError(refusal(full))
    return instantiate(name, args, limits)


def instantiate(name: Name, args: tuple, limits: Limits) -> Any:
    """What instantiating the class `name` makes.

    Raises: UnsafePickleError for a name that makes nothing; ConversionError.
    """
    full = name.full
    if full in ARRAY_CALLS:
        return ARRAY_CALLS[full](args)
    if full in CONTAINER_CALLS:
        return CONTAINER_CALLS[full](args, limits)
    if _is_script(full):
        return Module({})
    if full in _INERT or _is_foreign(full) or full.startswith("torch.optim."):
        return Opaque(full)
    raise UnsafePickleError(refusal(full))


def _class_of(args: tuple) -> Name:
    if not args or type(args[0]) is not Name:
        raise ConversionError("an object of no class")
    return args[0]


def _is_inert(value: Any) -> bool:
    if type(value) is Name:
        return value.full in _INERT or _is_foreign(value.full)
    return type(value) is Opaque
