"""Pickles written opcode by opcode, and torch's files around them."""

import pickle
import zipfile
from pathlib import Path
from typing import Any


class Code(bytes):
    """Opcodes that push one value."""


def name(full: str) -> Code:
    """The GLOBAL opcode of 'module.name'."""
    module, _, attribute = full.rpartition(".")
    return Code(b"c%s\n%s\n" % (module.encode(), attribute.encode()))


def code(value: Any) -> Code:
    """The opcodes that push a value, which may contain Code."""
    if isinstance(value, Code):
        return value
    if type(value) is tuple:
        return Code(b"(" + b"".join(map(code, value)) + b"t")
    if type(value) is list:
        return Code(b"](" + b"".join(map(code, value)) + b"e")
    if type(value) is dict:
        return Code(b"}(" + b"".join(code(k) + code(v) for k, v in value.items()) + b"u")
    if type(value) is bytes:
        return Code(b"B" + len(value).to_bytes(4, "little") + value)
    if type(value) is str:
        return Code(b"X" + len(value.encode()).to_bytes(4, "little") + value.encode())
    return Code(pickle.dumps(value, 2)[2:-1])


def call(full: str, *args: Any) -> Code:
    """The opcodes that call a name by REDUCE."""
    return Code(name(full) + code(args) + b"R")


def build(target: Any, state: Any) -> Code:
    return Code(code(target) + code(state) + b"b")


def storage(count: Any = 6, key: Any = "0", kind: str = "torch.FloatStorage", *view: Any) -> Code:
    return Code(code(("storage", name(kind), key, "cpu", count, *view)) + b"Q")


def tensor(
    under: Any = None, offset: Any = 0, size: Any = (6,), stride: Any = (1,), *more: Any
) -> Code:
    """_rebuild_tensor_v2 over a storage, by default of six float32 under the key '0'."""
    under = storage() if under is None else under
    function = "torch._utils._rebuild_tensor_v2"
    return call(
        function, under, offset, size, stride, False, call("collections.OrderedDict"), *more
    )


def numpy_type(plain: str, order: str = "<") -> Code:
    state = (3, order, None, None, None, -1, -1, 0)
    return build(call("numpy.dtype", plain, False, True), state)


def numpy_array(kind: Any, shape: Any, data: Any, fortran: Any = False) -> Code:
    empty = call("numpy.core.multiarray._reconstruct", name("numpy.ndarray"), (0,), b"b")
    return build(empty, (1, shape, kind, fortran, data))


def write_zip(path: Path, pickled: bytes, storages: dict[str, bytes], compression: int = 0) -> None:
    """Writes torch's zip format around a pickle."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("model/data.pkl", pickled)
        archive.writestr("model/version", "3\n")
        for key, data in storages.items():
            archive.writestr(f"model/data/{key}", data)


def write_legacy(
    path: Path, pickled: bytes, storages: dict[str, bytes], width: int = 4, keys: Any = None
) -> None:
    """Writes torch's old format around a pickle. width: bytes per element."""
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    parts = [pickle.dumps(part, 2) for part in head]
    parts += [pickled, pickle.dumps(list(storages) if keys is None else keys, 2)]
    for data in storages.values():
        parts += [(len(data) // width).to_bytes(8, "little"), data]
    path.write_bytes(b"".join(parts))
