"""What a pickle may name, and what it may not."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlt.convert.errors import ConversionError, UnsafePickleError
from vlt.convert.pickles import RestrictedUnpickler, rebuild_tensor
from vlt.convert.reading import read_checkpoint


class _Calls:
    """Pickles as a call of any function."""

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
    for name, payload in _touch(made):
        path = tmp_path / f"weights{suffix}"
        data = pickle.dumps({"state_dict": {"a": payload}}, protocol)
        write(path, data)
        with pytest.raises(UnsafePickleError) as error:
            read_checkpoint(path)
        assert str(path) in str(error.value)
        # Protocols up to 2 give Python 2's name of the module.
        spelled = name if protocol > 2 else "." + name.rpartition(".")[2]
        assert f"{spelled}, which is neither" in str(error.value)
    assert not made.exists()


def test_the_malicious_pickle_would_have_run(tmp_path):
    """The test above means something: a plain unpickler makes the file."""
    made = tmp_path / "made"
    pickle.loads(pickle.dumps(_touch(made)[0][1]))
    assert made.exists()


def _read(data: bytes) -> Any:
    return RestrictedUnpickler(io.BytesIO(data), "file").read()


@pytest.mark.parametrize(
    "data",
    [
        b"cbuiltins\ngetattr\n(c_codecs\nencode\nVcall\ntR.",
        b"cbuiltins\ngetattr\n(ccollections\nOrderedDict\nV__init_subclass__\ntR.",
        b"\x80\x04\x8c\x05torch\x8c\x0cSize.__class_\x93.",
        b"\x80\x04\x8c\x0bcollections\x8c\x16OrderedDict.__class__\x93.",
        b"\x82\x01.",
        b"cnumpy\ndtype\n(VO\ntR.",
    ],
    ids=["getattr-function", "getattr-class", "dotted", "dotted-real", "extension", "object-dtype"],
)
def test_there_is_no_way_around(data):
    with pytest.raises(ConversionError, match="^file: "):
        _read(data)


def test_one_file_cannot_change_the_reading_of_the_next():
    # BUILD sets attributes of the stand-in for torch.Size; a second reader has a new one.
    _read(b"ctorch\nSize\n(N}Vcall\nNstb.")
    assert _read(b"ctorch\nSize\n((I1\nltR.") == (1,)


def test_containers_and_numpy_values_survive():
    values = {
        "set": {1, 2},
        "tuple": (1, [2.5, None]),
        "array": np.arange(6, dtype=">f4").reshape(2, 3),
        "scalar": np.float64(0.25),
        "bytes": b"\xff\x00",
    }
    for protocol in (2, 4):
        read = _read(pickle.dumps(values, protocol))
        np.testing.assert_array_equal(read.pop("array").array, values["array"])
        assert read == {key: value for key, value in values.items() if key != "array"}


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [(0, (3, 3), (3, 1)), (5, (2,), (1,)), (0, (2,), (-1,)), (-1, (2,), (1,)), (0, (2,), ())],
)
def test_a_tensor_may_not_leave_its_storage(offset, size, stride):
    with pytest.raises(ValueError, match="tensor of size"):
        rebuild_tensor(np.zeros(6, np.float32), offset, size, stride)
