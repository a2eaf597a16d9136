"""What a pickle's opcodes do, and what they can't."""

import dataclasses
import inspect
import pickle
import pickletools
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pickle_code import build, call, code, name, numpy_array, numpy_type, storage, tensor

from vlt.convert.errors import ConversionError, UnsafePickleError
from vlt.convert.files import pickle_containers, pickle_machine, pickles, placeholders
from vlt.convert.files.pickles import parse
from vlt.convert.files.placeholders import Name, NumpyArray, Opaque, Storage, Tensor
from vlt.convert.files.reading import read_checkpoint
from vlt.convert.files.resolve import resolve


class _Calls:
    """Pickles as a call of the given function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = function, arguments

    def __reduce__(self) -> tuple:
        return self._call


def _touch(path: Path) -> list[tuple[str, Any]]:
    import os
    import subprocess

    command = f"touch {path}"
    return [
        ("posix.system", _Calls(os.system, command)),
        ("builtins.eval", _Calls(eval, f"open({str(path)!r}, 'w')")),
        ("builtins.exec", _Calls(exec, f"open({str(path)!r}, 'w')")),
        ("subprocess.Popen", _Calls(subprocess.Popen, ["touch", str(path)])),
        ("io.open", _Calls(open, str(path), "w")),
    ]


def _zip(path: Path, data: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", data)
        archive.writestr("model/version", "3\n")


def _torchscript(path: Path, data: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", data)
        archive.writestr("model/constants.pkl", data)
        archive.writestr("model/code/__torch__.py", "raise SystemExit")


def _legacy(path: Path, data: bytes) -> None:
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    path.write_bytes(b"".join(pickle.dumps(part, 2) for part in head) + data)


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("write", [_zip, _torchscript, _legacy, Path.write_bytes])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_a_malicious_pickle_is_refused_and_runs_nothing(tmp_path, write, protocol, suffix):
    made = tmp_path / "made"
    for function, payload in _touch(made):
        path = tmp_path / f"weights{suffix}"
        data = pickle.dumps({"state_dict": {"a": payload}}, protocol)
        write(path, data)
        with pytest.raises(UnsafePickleError) as error:
            read_checkpoint(path)
        assert str(path) in str(error.value)
        # Protocols up to 2 use Python 2's name of the module.
        spelled = function if protocol > 2 else "." + function.rpartition(".")[2]
        assert f"{spelled}, which is neither" in str(error.value)
    assert not made.exists()


def test_the_malicious_pickle_would_have_run(tmp_path):
    """Shows that the test above is meaningful: a plain unpickler makes the file."""
    made = tmp_path / "made"
    pickle.loads(pickle.dumps(_touch(made)[0][1]))
    assert made.exists()


def _plain(pickled: bytes) -> Any:
    return resolve(parse(pickled + b".").value, len(pickled))


_NAMED = name("example.Class")
# For each admitted opcode: a pickle that uses it, without STOP, and what it reads as.
_OPCODES: dict[str, tuple[bytes, Any]] = {
    "NONE": (b"N", None),
    "NEWTRUE": (b"\x88", True),
    "NEWFALSE": (b"\x89", False),
    "INT": (b"I01\nI00\nI-12\n\x87", (True, False, -12)),
    "LONG": (b"L123456789012345678901L\n", 123456789012345678901),
    "BININT": (b"J\xfe\xff\xff\xff", -2),
    "BININT1": (b"K\xfe", 254),
    "BININT2": (b"M\xfe\xff", 65534),
    "LONG1": (b"\x8a\x02\x00\x80", -32768),
    "LONG4": (b"\x8b\x02\x00\x00\x00\xff\x00", 255),
    "FLOAT": (b"F-1.5e3\n", -1500.0),
    "BINFLOAT": (b"G\x3f\xf8" + bytes(6), 1.5),
    "STRING": (b"S'caf\\xc3\\xa9'\nS\"\\xff\"\n\x86", ("café", b"\xff")),
    "BINSTRING": (b"T\x05\0\0\0caf\xc3\xa9", "café"),
    "SHORT_BINSTRING": (b"U\x01aU\x01\xff\x86", ("a", b"\xff")),
    "UNICODE": (b"Vcaf\xe9\\u00e9\n", "caféé"),
    "SHORT_BINUNICODE": (b"\x8c\x05caf\xc3\xa9", "café"),
    "BINUNICODE": (b"X\x05\0\0\0caf\xc3\xa9", "café"),
    "BINUNICODE8": (b"\x8d\x05" + bytes(7) + b"caf\xc3\xa9", "café"),
    "SHORT_BINBYTES": (b"C\x02\xffa", b"\xffa"),
    "BINBYTES": (b"B\x02\0\0\0\xffa", b"\xffa"),
    "BINBYTES8": (b"\x8e\x02" + bytes(7) + b"\xffa", b"\xffa"),
    "BYTEARRAY8": (b"\x96\x02" + bytes(7) + b"\xffa", b"\xffa"),
    "EMPTY_LIST": (b"]", []),
    "EMPTY_DICT": (b"}", {}),
    "EMPTY_SET": (b"\x8f", set()),
    "EMPTY_TUPLE": (b")", ()),
    "TUPLE1": (b"N\x85", (None,)),
    "TUPLE2": (b"K\x01K\x02\x86", (1, 2)),
    "TUPLE3": (b"K\x01K\x02K\x03\x87", (1, 2, 3)),
    "TUPLE": (b"(K\x01K\x02t", (1, 2)),
    "LIST": (b"(K\x01K\x02l", [1, 2]),
    "DICT": (b"(K\x01K\x02d", {1: 2}),
    "FROZENSET": (b"(K\x01K\x02\x91", {1, 2}),
    "APPEND": (b"]K\x01a", [1]),
    "APPENDS": (b"](K\x01K\x02e", [1, 2]),
    "SETITEM": (b"}K\x01K\x02s", {1: 2}),
    "SETITEMS": (b"}(K\x01K\x02K\x03K\x04u", {1: 2, 3: 4}),
    "ADDITEMS": (b"\x8f(K\x01K\x02\x90", {1, 2}),
    "MARK": (b"(t", ()),
    "POP": (b"K\x01K\x020", 1),
    "POP_MARK": (b"K\x01(K\x02K\x031", 1),
    "DUP": (b"K\x012\x86", (1, 1)),
    "GET": (b"K\x05p300\n0g300\n", 5),
    "BINGET": (b"K\x05q\x070h\x07", 5),
    "LONG_BINGET": (b"K\x05r\0\1\0\x000j\0\1\0\0", 5),
    "PUT": (b"K\x05p300\n", 5),
    "BINPUT": (b"K\x05q\x07", 5),
    "LONG_BINPUT": (b"K\x05r\0\1\0\0", 5),
    "MEMOIZE": (b"K\x05\x94K\x06\x94h\x00\x87", (5, 6, 5)),
    "PROTO": (b"\x80\x05N", None),
    "FRAME": (b"\x95\x01" + bytes(7) + b"N", None),
    "GLOBAL": (b"cexample\nClass\n", "example.Class"),
    "STACK_GLOBAL": (b"\x8c\x07example\x8c\x05Class\x93", "example.Class"),
    "REDUCE": (_NAMED + b")R", "<example.Class>"),
    "INST": (b"(K\x01iexample\nClass\n", "<example.Class>"),
    "OBJ": (b"(" + _NAMED + b"K\x01o", "<example.Class>"),
    "NEWOBJ": (_NAMED + b")\x81", "<example.Class>"),
    "NEWOBJ_EX": (_NAMED + b")}\x92", "<example.Class>"),
    "BUILD": (_NAMED + b")\x81}b", "<example.Class>"),
}


def _shown(value: Any) -> Any:
    return str(value) if type(value) in (Name, Opaque) else value


@pytest.mark.parametrize("opcode", _OPCODES)
def test_each_opcode(opcode: str):
    pickled, expected = _OPCODES[opcode]
    if opcode != "STRING":  # pickletools reads it as ASCII
        assert opcode in [used.name for used, _, _ in pickletools.genops(pickled + b".")]
    found = _shown(_plain(pickled))
    assert found == expected
    assert type(found) is type(expected)
    if b"example" not in pickled and "STRING" not in opcode:
        assert found == pickle.loads(pickled + b".", encoding="utf-8")


def test_each_opcode_has_its_test():
    used = {op.name for op in pickletools.opcodes if ord(op.code) in pickles._OPCODES}
    assert used == _OPCODES.keys() | {"BINPERSID"}


@pytest.mark.parametrize(
    ("opcode", "pickled"),
    {
        "EXT1": b"\x82\x01",
        "EXT2": b"\x83\x01\0",
        "EXT4": b"\x84\x01\0\0\0",
        "PERSID": b"P0\n",
        "NEXT_BUFFER": b"\x97",
        "READONLY_BUFFER": b"N\x98",
    }.items(),
)
def test_each_refused_opcode_is_named(opcode: str, pickled: bytes):
    with pytest.raises(ConversionError, match=f"{opcode}, which is refused"):
        _plain(pickled)
    refused = {op.name for op in pickletools.opcodes} - _OPCODES.keys()
    assert opcode in refused - {"BINPERSID", "STOP"}


def test_a_storage_is_a_reference_and_no_bytes():
    parsed = parse(storage(6, "key") + b".", storages=True)
    assert dataclasses.astuple(parsed.value) == ("float32", "key", 6, 0, 6)
    assert parsed.storages == {"key": parsed.value}
    part = parse(storage(6, "0", "torch.HalfStorage", ("v", 2, 4)) + b".", storages=True).value
    assert (part.kind, part.whole, part.first, part.count) == ("float16", 6, 2, 4)
    with pytest.raises(ConversionError, match="outside of the pickle"):
        parse(storage() + b".")


@pytest.mark.parametrize(
    "pid",
    [
        "storage",
        ("storage", name("torch.FloatStorage"), "0"),
        ("storage", "torch.FloatStorage", "0", "cpu", 6),
        ("storage", name("torch.float32"), "0", "cpu", 6),
        ("storage", name("torch.QInt8Storage"), "0", "cpu", 6),
        ("storage", numpy_type("f4"), "0", "cpu", 6),
        ("storage", name("torch.FloatStorage"), 0, "cpu", 6),
        ("storage", name("torch.FloatStorage"), "0", "cpu", -1),
        ("storage", name("torch.FloatStorage"), "0", "cpu", True),
        ("storage", name("torch.FloatStorage"), "0", "cpu", 6.0),
        ("storage", name("torch.FloatStorage"), "0", "cpu", 6, ("v", 3, 4)),
        ("storage", name("torch.FloatStorage"), "0", "cpu", 6, ("v", -1, 4)),
        ("storage", name("torch.FloatStorage"), "0", "cpu", 6, [0, 1, 4]),
        ("storage", name("torch.FloatStorage"), "0", "cpu", 6, None, 7),
        ("module", "torch.nn.Linear", "file", "source"),
        ("other", name("torch.FloatStorage"), "0", "cpu", 6),
    ],
    ids=str,
)
def test_a_reference_of_another_form_is_refused(pid: Any):
    with pytest.raises(ConversionError):
        parse(code(pid) + b"Q.", storages=True)


@pytest.mark.parametrize(
    "pickled",
    [
        b"",
        b"N",
        b".",
        b"0.",
        b"K",
        b"\xff.",
        b"\x80\x06N.",
        b"\x95\xff" + bytes(7) + b"N.",
        b"X\xff\xff\xff\xffabc.",
        b"T\xff\xff\xff\xffabc.",
        b"\x8d" + b"\xff" * 8 + b"abc.",
        b"\x8e" + b"\xff" * 8 + b"abc.",
        b"\x96" + b"\xff" * 8 + b"abc.",
        b"\x8b\xff\xff\xff\xffabc.",
        b"\x8b\0\x10\0\0" + bytes(4096) + b".",
        b"I" + b"9" * 5000 + b"\n.",
        b"I0x10\n.",
        b"I1_0\n.",
        b"L\n.",
        b"Fone\n.",
        b"F" + b"1" * 20,
        b"Sabc\n.",
        b"S'abc\n.",
        b"S'\\x1'\n.",
        b"V\\ud800\n.",
        b"V\\u12\n.",
        b"h\x00.",
        b"q\x00.",
        b"Np-1\n.",
        b"Np4294967296\n.",
        b"t.",
        b"u.",
        b"(u.",
        b"}(K\x01u.",
        b"](K\x01u.",
        b"}K\x01a.",
        b")K\x01a.",
        b"\x8f(K\x01e.",
        b"](K\x01\x90.",
        b"N(K\x01e.",
        b"X\1\0\0\0aK\x01a.",
        b"K\x01)R.",
        b")R.",
        b"cexample\nClass\nNR.",
        b"cexample\nClass\n](K\x01eR.",
        b"cexample\nClass\n)R)R.",
        b"(o.",
        b"(K\x01o.",
        b"N)\x81.",
        b"cexample\nClass\n]\x81.",
        b"cexample\nClass\n)N\x92.",
        b"ccollections\nOrderedDict\n)}K\x01K\x02s\x92.",
        b"K\x01K\x02\x93.",
        b"C\x01aC\x01b\x93.",
        b"cexample\nClass.",
        b"N}b.",
        b"K\x01}b.",
        b")}b.",
        b"cexample\nClass\n}b.",
        b"ctorch\nfloat32\n}b.",
        b"(" * 20000 + b".",
    ],
)
def test_a_broken_pickle_is_an_error_in_words(pickled: bytes):
    with pytest.raises(ConversionError):
        resolve(parse(pickled, storages=True).value, len(pickled))


@pytest.mark.parametrize(
    "key",
    [
        [],
        {},
        2**60,
        -(2**61 - 1) * 3,
        (2**61, 1),
        ((1, 2), 3),
        (1,) * 9,
        "a" * 5000,
        call("builtins.set", [1]),
        tensor(),
        storage(),
        numpy_array(numpy_type("f4"), (1,), bytes(4)),
        call("numpy.dtype", "f4"),
    ],
    ids=lambda key: repr(key)[:20],
)
def test_keys_hash_fast_and_not_as_the_writer_likes(key: Any):
    for pickled in (
        code({key: 1}) if type(key) not in (list, dict) else b"}" + code(key) + b"Ns",
        b"}" + code(key) + b"Ns",
        b"(" + code(key) + b"Nd",
        b"\x8f(" + code(key) + b"\x90",
        b"(" + code(key) + b"\x91",
        call("builtins.frozenset", [code(key)]),
        call("collections.OrderedDict", [[code(key), 1]]),
    ):
        with pytest.raises(ConversionError, match="as a key"):
            parse(pickled + b".", storages=True)


def test_sound_keys_are_taken():
    keys = ["a", b"a", 1, -1, 2**48, 1.5, True, None, ("a", 1, 2.5), ("a", b"b", None)]
    for protocol in range(6):
        for key in keys:
            assert _plain(pickle.dumps({key: 1}, protocol)[:-1]) == {key: 1}


def test_tuples_as_keys_are_counted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pickle_containers, "_MOST_TUPLE_KEYS", 50)
    for count in (50, 51):
        keys = [(0, i) for i in range(count)]
        for made in (
            code(dict.fromkeys(keys)),
            call("builtins.set", keys),
            call("collections.OrderedDict", [(key, 1) for key in keys]),
            b"\x8f(" + b"".join(map(code, keys)) + b"\x90",
        ):
            if count == 50:
                assert len(_plain(made)) == 50
                continue
            with pytest.raises(ConversionError, match="more than 50 tuples as keys"):
                _plain(made)


def test_objects_are_counted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pickle_machine, "_MOST_OBJECTS", 1000)
    for one in (b"]", b"}", b"\x8f", b"\x85", b"\x94", b"(", b"\x8c\x01a", b"(t"):
        assert parse(b"N" + one * 400 + b"N.").value is None
        with pytest.raises(ConversionError, match="more than 1000 objects"):
            parse(b"N" + one * 1001 + b"N.")


def test_names_are_short_and_made_once():
    with pytest.raises(ConversionError, match="a name of more than 1000 characters"):
        parse(b"c" + b"a." * 600 + b"b\nC\n.")
    first, second = parse(name("example.Class") + name("example.Class") + b"\x86.").value
    assert first is second


def test_placeholders_have_no_state_that_a_pickle_could_set():
    kinds = [kind for _, kind in inspect.getmembers(placeholders, inspect.isclass)]
    kinds = [kind for kind in kinds if kind.__module__ == placeholders.__name__]
    assert len(kinds) == 7
    hooks = {"__setstate__", "__dict__", "__call__", "append", "extend", "add", "__setitem__"}
    hooks |= {"__getattr__", "__iter__", "__index__", "__array__", "__del__", "__reduce__"}
    for kind in kinds:
        assert not hooks & {hook for base in kind.__mro__[:-1] for hook in vars(base)}, kind
        assert kind.__hash__ is object.__hash__ and kind.__eq__ is object.__eq__, kind


def test_a_state_changes_nothing_that_acts():
    for target in (name("torch.Size"), name("torch.float32"), tensor(), storage(), "text"):
        for state in ({"call": 1}, (1, {"dtype": 2}), ({}, {"dtype": 3})):
            with pytest.raises(ConversionError, match="sets the state of"):
                parse(build(target, state) + b".", storages=True)
    ordered = build(call("collections.OrderedDict"), {"_metadata": 1, "__class__": 2})
    assert _plain(ordered) == {}


def test_what_stands_for_a_class_keeps_nothing():
    evil = {"__class__": name("torch.Size"), "__dict__": {}, "kind": "numpy.ndarray"}
    pickled = build(call("example.Class"), evil)
    pickled += b"(K\x01e" + b"K\x01K\x02s" + b"(K\x01\x90"
    found = _plain(pickled)
    assert type(found) is Opaque
    assert found.kind == "example.Class"


def test_values_are_of_exact_types():
    parsed = parse(code([tensor(), numpy_array(numpy_type("f4"), (1,), bytes(4))]) + b".", 0, True)
    first, second = parsed.value
    assert (type(first), type(first.storage), type(second)) == (Tensor, Storage, NumpyArray)
    assert {type(n) for n in (first.offset, *first.size, *first.stride)} == {int}


def test_containers_and_numpy_values_survive():
    values = {
        "set": {1, 2},
        "tuple": (1, [2.5, None]),
        "complex": 1 + 2j,
        "bytearray": bytearray(b"ab"),
        "scalar": np.float64(0.25),
        "flag": np.bool_(True),
        "big": np.array(7, ">i8")[()],
        "bytes": b"\xff\x00",
    }
    arrays = {
        "array": np.arange(6, dtype=">f4").reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
        "none": np.zeros((0, 3)),
        "zero": np.array(1.5 - 2j),
    }
    for protocol in range(6):
        read = _plain(pickle.dumps({**values, **arrays}, protocol)[:-1])
        for key, array in arrays.items():
            found = read.pop(key)
            np.testing.assert_array_equal(found, array)
            assert (found.dtype, found.flags.writeable) == (array.dtype, False)
        assert read == values
        assert type(read["scalar"]) is float


def test_one_file_cannot_change_the_reading_of_the_next():
    with pytest.raises(ConversionError):
        _plain(b"ctorch\nSize\n(N}Vcall\nNstb")
    assert _plain(b"ctorch\nSize\n((I1\nltR") == (1,)
