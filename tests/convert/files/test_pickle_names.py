"""What a pickle may name, what a call of each name makes, and what is refused."""

import argparse
import collections
import datetime
import decimal
import enum
import fractions
import pathlib
import pickle
import types
import uuid
from typing import Any

import numpy as np
import pytest
from pickle_code import (
    Code,
    build,
    call,
    code,
    name,
    numpy_array,
    numpy_type,
    storage,
    tensor,
)

from vlt.convert.errors import ConversionError, UnsafePickleError
from vlt.convert.files import pickle_names
from vlt.convert.files.pickles import parse
from vlt.convert.files.placeholders import Name, NumpyArray, NumpyType, Opaque, Tensor
from vlt.convert.files.resolve import resolve

_DENSE = "torch._utils._rebuild_tensor_v2"
_V3 = (storage(24, "0", "torch.UntypedStorage"), 0, (6,), (1,), False, None)


def _placeholder(pickled: bytes) -> Any:
    return parse(pickled + b".", storages=True).value


def _read(pickled: bytes) -> Any:
    """The value of a pickle over a storage of the six numbers from 0 on."""
    numbers = memoryview(np.arange(6, dtype=np.float32).tobytes())
    return resolve(_placeholder(pickled), 10_000, lambda _: numbers)


def _shown(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value) if type(value) in (Name, Opaque) else value


_CALLS = [*pickle_names.ARRAY_CALLS, *pickle_names.CONTAINER_CALLS]
_SIX = [0.0, 1, 2, 3, 4, 5]
_F4 = numpy_type("f4")
# Arguments for each name that makes something, and what it makes of them. Names that differ only
# in their module appear once.
_MADE: dict[str, tuple[tuple, Any]] = {
    "torch._utils._rebuild_tensor": ((storage(), 0, (2, 3), (3, 1)), [[0, 1, 2], [3, 4, 5]]),
    _DENSE: ((storage(), 1, (2,), (3,), False, {}), [1, 4]),
    "torch._utils._rebuild_tensor_v3": ((*_V3, name("torch.float32")), _SIX),
    "torch._utils._rebuild_parameter": ((tensor(), True, {}), _SIX),
    "torch._utils._rebuild_parameter_with_state": ((tensor(), True, {}, {"a": 1}), _SIX),
    "torch._tensor._rebuild_from_type_v2": (
        (name(_DENSE), name("example.Tensor"), (storage(), 0, (6,), (1,), False, {}), {"a": 1}),
        _SIX,
    ),
    "torch.jit._pickle.restore_type_tag": (([1], "List[int]"), [1]),
    "torch.jit._pickle.build_intlist": (([1],), [1]),
    "torch.jit._pickle.build_tensorlist": (([tensor()],), [_SIX]),
    "torch.jit._pickle.build_boollist": (([True],), [True]),
    "torch.jit._pickle.build_doublelist": (([1.5],), [1.5]),
    "torch.Size": (((2, 3),), (2, 3)),
    "torch.device": (("cuda", 1), "cuda:1"),
    "numpy.dtype": (("f4", False, True), NumpyType),
    "multiarray._reconstruct": ((name("numpy.ndarray"), (0,), b"b"), NumpyArray),
    "multiarray.scalar": ((_F4, np.float32(1.5).tobytes()), 1.5),
    "numeric._frombuffer": ((np.float32([1.5, 2]).tobytes(), _F4, (2,), "C"), [1.5, 2]),
    "_codecs.encode": (("aé", "latin1"), b"a\xe9"),
    "collections.OrderedDict": (([["a", 1], ("b", 2)],), {"a": 1, "b": 2}),
    "collections.defaultdict": ((name("builtins.list"), {"a": 1}), {"a": 1}),
    "collections.Counter": (({"a": 2},), {"a": 2}),
    "collections.deque": (([1, 2], 5), [1, 2]),
    "list": (((1, 2),), [1, 2]),
    "dict": (({"a": 1},), {"a": 1}),
    "tuple": (([1, 2],), (1, 2)),
    "set": (([1, 2],), {1, 2}),
    "frozenset": (((1, 2),), {1, 2}),
    "bytes": ((b"a",), b"a"),
    "bytearray": (("aé", "latin-1"), b"a\xe9"),
    "complex": ((1.5, -2), 1.5 - 2j),
}


def _short(full: str) -> str:
    for package in ("builtins.", "__builtin__.", "numpy.core.", "numpy._core."):
        full = full.removeprefix(package)
    return full


@pytest.mark.parametrize("full", _CALLS)
def test_each_name_that_makes_something(full: str):
    args, expected = _MADE[_short(full)]
    pickled = call(full, *args)
    if isinstance(expected, type):
        assert type(_placeholder(pickled)) is expected
    else:
        found = _read(pickled)
        found = [_shown(item) for item in found] if type(found) is list else _shown(found)
        assert found == expected


@pytest.mark.parametrize("full", _CALLS)
def test_no_name_trusts_its_arguments(full: str):
    """Arguments of any kind and number give a value or an error, never another exception."""
    odd = [
        *(None, True, -1, 2**70, 1.5, "f4", "C", b"abcd", (), (1,), [], [[1, 2]], {}, {"a": 1}),
        *(name("torch.float32"), name("example.Class"), name(_DENSE), call("example.Class")),
        *(storage(), tensor(), _F4, numpy_array(_F4, (1,), bytes(4))),
        *(call("numpy.core.multiarray._reconstruct", name("numpy.ndarray"), (0,), b"b"),),
    ]
    good = list(_MADE[_short(full)][0])
    trials = [(), *((one,) for one in odd), (*good, *good), good * 3, good[:-1]]
    trials += [good[:i] + [one] + good[i + 1 :] for i in range(len(good)) for one in odd]
    for args in trials:
        try:
            _read(call(full, *args))
        except ConversionError:
            continue


@pytest.mark.parametrize("full", sorted(pickle_names._INERT))
def test_each_inert_name(full: str):
    for made in (
        call(full, name("example.function"), {"a": [1]}),
        Code(name(full) + b")\x81"),
        Code(name(full) + b")}\x92"),
        Code(b"(" + name(full) + b"K\x01o"),
    ):
        assert str(_read(build(made, {"a": 1, "__class__": 2}))) == f"<{full}>"


@pytest.mark.parametrize("full", sorted(pickle_names._HELD))
def test_each_name_that_may_only_be_held(full: str):
    assert _shown(_read(name(full))) == full
    if _short(full) not in ("bytes", "bytearray", "complex", "dict", "frozenset", "list", "set"):
        for args in ((), (1,), ("f4",), ((1,),)) if _short(full) != "tuple" else ():
            with pytest.raises(UnsafePickleError, match="nothing was run"):
                _read(call(full, *args))


@pytest.mark.parametrize("full", sorted(pickle_names._NO_ARRAYS))
def test_each_tensor_without_plain_numbers(full: str):
    with pytest.raises(ConversionError, match="save the state dict with dense tensors"):
        _read(call(full, 1))


@pytest.mark.parametrize("module", ["copyreg", "copy_reg"])
def test_objects_of_old_protocols(module: str):
    old = call(f"{module}._reconstructor", name("example.Class"), name("builtins.object"), None)
    assert str(_read(build(old, {"a": 1}))) == "<example.Class>"
    assert str(_read(call(f"{module}.__newobj__", name("example.pair"), 1, 2))) == "<example.pair>"
    for args in ((), (1,), (name("torch.float32"),), (tensor(), 1)):
        with pytest.raises(ConversionError):
            _read(call(f"{module}._reconstructor", *args))


@pytest.mark.parametrize(
    "full",
    [
        *("posix.system", "nt.system", "os.system", "os.popen", "commands.Popen", "popen2.Popen3"),
        *(
            "subprocess.Popen",
            "subprocess.run",
            "commands.getoutput",
            "pty.spawn",
            "runpy.run_path",
        ),
        *("builtins.eval", "__builtin__.eval", "builtins.exec", "builtins.compile", "io.open"),
        *("builtins.open", "builtins.__import__", "builtins.Exception", "builtins.print"),
        *("importlib.import_module", "sys.exit", "sys.modules", "types.FunctionType"),
        *("types.CodeType", "marshal.loads", "pickle.loads", "_pickle.Unpickler", "shutil.rmtree"),
        *("operator.attrgetter", "operator.methodcaller", "_operator.itemgetter", "code.interact"),
        *("functools.reduce", "itertools.starmap", "builtins.map", "builtins.apply", "bdb.Bdb"),
        *("ctypes.CDLL", "ctypes.memmove", "mmap.mmap", "socket.socket", "webbrowser.open"),
        *("logging.config.fileConfig", "pathlib.Path.unlink", "pathlib.Path.write_text"),
        *("collections.namedtuple", "collections.OrderedDict.__class__", "torch.Size.__class__"),
        *("torch.load", "torch.hub.load", "torch.classes.load_library", "torch.ops.load_library"),
        *("torch.storage._load_from_bytes", "torch.jit.load", "torch.utils.cpp_extension.load"),
        *("torch.nn.Linear", "torch.nn.functional.gelu", "torch.optim.lr_scheduler._warn"),
        *("torch.distributed.tensor.DTensor", "torch.fx.GraphModule", "torch.package.Importer"),
        *("numpy.load", "numpy.ctypeslib.load_library", "numpy.core.multiarray.fromfile"),
        *("numpy.ma.core._mareconstruct", "numpy.matrix", "numpy.memmap", "numpy.frombuffer"),
        *("numpy.f2py.compile", "numpy.distutils.exec_command", "numpy.core.numeric.fromfunction"),
        *(
            "__main__.__builtins__",
            "example.__builtins__.eval",
            "example.Class.__init__.__globals__",
        ),
        *("example.Class.__subclasses__", "example..Class", "example.a b", "example.\x1b[2J"),
    ],
)
def test_what_runs_code_is_refused_by_name(full: str):
    for pickled in (name(full), call(full, "x"), Code(name(full) + b")\x81")):
        with pytest.raises(UnsafePickleError) as error:
            _read(pickled)
        assert full.encode("unicode_escape").decode() in str(error.value)
        assert str(error.value).isprintable()


def test_a_function_of_another_package_is_not_called():
    for full in ("example.run", "example._run", "__main__.main", "pip._internal.main"):
        assert _shown(_read(name(full))) == full  # a value, like a scheduler's function
        for pickled in (call(full, "x"), b"(K\x01" + name(full).replace(b"c", b"i", 1)):
            with pytest.raises(UnsafePickleError, match=full):
                _read(pickled)


@pytest.mark.parametrize("module", ["builtins", "__builtin__"])
def test_an_attribute_of_an_inert_class_and_the_type_of_none(module: str):
    assert str(_read(call(f"{module}.getattr", name("example.Mode"), "A"))) == "<example.Mode>"
    assert str(_read(call(f"{module}.type", None))) == "<NoneType>"
    for args in ((1,), ("a", (), {}), (name("example.Class"),)):
        with pytest.raises(UnsafePickleError, match="type"):
            _read(call(f"{module}.type", *args))


def test_each_known_name_has_its_test():
    tested = {*_CALLS, *pickle_names._INERT, *pickle_names._HELD}
    modules = [m + k for m in ("copyreg.", "copy_reg.") for k in ("_reconstructor", "__newobj__")]
    builtins = [m + k for m in ("builtins.", "__builtin__.") for k in ("getattr", "type")]
    assert {*tested, *modules, *builtins} == pickle_names._KNOWN


def test_a_method_is_not_called():
    method = call("builtins.getattr", name("example.Class"), "run")
    with pytest.raises(UnsafePickleError, match="asks for example.Class.*nothing was run"):
        _read(Code(method + b"(K\x01tR"))
    for owner in (name("torch.Size"), name("builtins.list"), name("builtins.getattr"), tensor(), 1):
        with pytest.raises(UnsafePickleError, match=r"builtins\.getattr"):
            _read(call("builtins.getattr", owner, "__class__"))


def test_a_pickled_layer_is_refused_and_its_class_is_a_setting():
    layer = "torch.nn.modules.linear.Linear"
    assert _shown(_read(name(layer))) == layer
    with pytest.raises(UnsafePickleError, match=layer):
        _read(Code(name(layer) + b")\x81"))


def test_what_the_table_admits_is_never_imported():
    """Each name is text: reading it loads no module."""
    import sys

    before = set(sys.modules)
    for full in (*pickle_names._INERT, *pickle_names._HELD, "antigravity_like.Class"):
        _read(name(full))
    assert set(sys.modules) == before


_Point = collections.namedtuple("_Point", "x y")


class _Mode(enum.Enum):
    FAST = 1


class _Flags(enum.IntFlag):
    A = 1
    B = 2


class _Settings(dict):
    pass


class _Node:
    def __init__(self) -> None:
        self.parent = self


def _settings() -> _Settings:
    settings = _Settings(rate=0.1)
    settings.frozen = True
    return settings


_EXTRAS = {
    "named tuple": _Point(1, 2),
    "enum": _Mode.FAST,
    "flag": _Flags.A | _Flags.B,
    "dict of a class": _settings(),
    "object that holds itself": _Node(),
    "date": datetime.date(2020, 1, 2),
    "datetime": datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC),
    "timedelta": datetime.timedelta(1),
    "path": pathlib.Path("/a/b"),
    "pure path": pathlib.PurePosixPath("a"),
    "windows path": pathlib.PureWindowsPath("c:\\a"),
    "counter": collections.Counter("abca"),
    "deque": collections.deque([1], 3),
    "namespace": argparse.Namespace(lr=0.1),
    "simple namespace": types.SimpleNamespace(lr=0.1),
    "decimal": decimal.Decimal("1.5"),
    "fraction": fractions.Fraction(1, 3),
    "uuid": uuid.UUID(int=7),
    "slice": slice(1, 2),
    "range": range(3),
    "complex": 1 + 2j,
    "set": {1, 2},
    "type": int,
    "none type": type(None),
    "ellipsis": ...,
    "numpy type": np.float32,
    "numpy dtype": np.dtype("float32"),
    "numpy text": np.array(["a", "bc"]),
    "numpy time": np.datetime64("2020-01-01"),
    "random state": np.random.RandomState(0),
    "random generator": np.random.default_rng(0),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("extra", _EXTRAS)
def test_harmless_extras_are_read(extra: str, protocol: int):
    pickled = pickle.dumps({"extra": _EXTRAS[extra], "other": 1}, protocol)[:-1]
    assert _read(pickled)["other"] == 1


def test_weights_are_not_lost_in_what_is_inert():
    """Containers that torch.save writes around tensors stay containers."""
    for made in (
        call("collections.OrderedDict", [["w", tensor()]]),
        call("collections.defaultdict", None, {"w": tensor()}),
        Code(call("collections.OrderedDict") + code("w") + tensor() + b"s"),
    ):
        assert _read(made)["w"].tolist() == _SIX
    assert type(_placeholder(call("torch._utils._rebuild_parameter", tensor(), True, {}))) is Tensor
