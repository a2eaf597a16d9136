"""Reads torch's three file formats as numpy: zip and TorchScript archives, and the old pickles.

Formats: torch/serialization.py (zip since 1.6, else five pickles, then the storages).
The file is mapped into memory, and arrays are views of it where it keeps them whole and aligned.
"""

import mmap
import sys
import zipfile
from pathlib import Path
from typing import Any

from vlt.convert.errors import ConversionError, UnsafePickleError
from vlt.convert.files.archives import Archive, local_entry
from vlt.convert.files.arrays import DTYPES
from vlt.convert.files.impostors import describe_impostor
from vlt.convert.files.mapped import aligned, map_file
from vlt.convert.files.pickles import Parsed, parse
from vlt.convert.files.placeholders import Storage
from vlt.convert.files.resolve import naming, resolve

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_ZIP = b"PK\x03\x04"


def read_torch_file(path: Path) -> Any:
    """The saved object: tensors as read-only numpy arrays, TorchScript modules as nested dicts.

    Objects of classes that are not loaded are vlt.convert.files.placeholders.Opaque.

    Raises ConversionError when it can't be read, UnsafePickleError when it asks for code.
    """
    with naming(path):
        try:
            if not path.is_file():
                raise ConversionError("no such file, or not a plain one")
            if path.stat().st_size == 0:
                raise ConversionError(f"{describe_impostor(path)}")
            data = map_file(path)
            return _read_zip(path, data) if data[:4] == _ZIP else _read_legacy(path, data)
        except OSError as error:
            raise ConversionError(f"cannot be read: {error.strerror or error}") from error


def _read_zip(path: Path, data: mmap.mmap) -> Any:
    if not zipfile.is_zipfile(path):
        raise ConversionError(_cut_short(len(data), _least_size(data)))
    archive = Archive(path, data)
    names = [name for name in archive.entries if name.endswith("/data.pkl")]
    if len(names) != 1:
        raise ConversionError("a zip file, but not one that torch saved")
    root = names[0].removesuffix("data.pkl")
    if root + "byteorder" in archive.entries:
        order = bytes(archive.read(root + "byteorder")[:20]).decode("ascii", "replace")
        if order != sys.byteorder:
            raise ConversionError(f"saved with {order!r}-endian numbers")
    parsed = parse(bytes(archive.read(names[0])), storages=True)
    storages: dict[str, memoryview] = {}

    def bytes_under(storage: Storage) -> memoryview:
        if storage.key not in storages:
            storages[storage.key] = aligned(archive.read(f"{root}data/{storage.key}"))
        return storages[storage.key]

    return resolve(parsed.value, len(data), bytes_under)


def _cut_short(size: int, least: int) -> str:
    of = f" of at least {least:,}" if least > size else ""
    return f"a download cut short: {size:,} bytes{of} are here; download it again"


def _least_size(data: mmap.mmap) -> int:
    """Least size in bytes of an archive cut short, as its pickle tells; 0 if it doesn't."""
    try:
        start, name = local_entry(data, 0)
        if not name.endswith("/data.pkl"):
            return 0
        parsed = parse(data, start, storages=True)
    except ConversionError:
        return 0
    return parsed.end + sum(map(_nbytes, parsed.storages.values()))


def _nbytes(storage: Storage) -> int:
    return storage.whole * DTYPES[storage.kind].itemsize


def _read_legacy(path: Path, data: mmap.mmap) -> Any:
    parsed = _parse_legacy(path, data)
    keys = parse(data, parsed.end)
    if type(keys.value) is not list or any(type(key) is not str for key in keys.value):
        raise ConversionError("its list of storages is not a list")
    storages = _storages_behind(data, keys, parsed.storages)

    def bytes_under(storage: Storage) -> memoryview:
        found = storages.get(storage.key)
        if found is None or found.nbytes != _nbytes(storage):
            raise ConversionError(
                f"storage {storage.key[:80]} does not fit the tensors that use it"
            )
        return found

    return resolve(parsed.value, len(data), bytes_under)


def _parse_legacy(path: Path, data: mmap.mmap) -> Parsed:
    """Reads the object, the last of four pickles: magic number, protocol, system, the object."""
    try:
        magic = parse(data)
    except UnsafePickleError:
        raise
    except ConversionError as error:
        impostor = describe_impostor(path)
        but = f", but {impostor}" if impostor else ""
        raise ConversionError(f"not a file that torch saved{but}") from error
    protocol = parse(data, magic.end) if _is(magic.value, _MAGIC) else None
    if protocol is None or not _is(protocol.value, _PROTOCOL):
        raise ConversionError("a pickle, but not one that torch.save wrote")
    system = parse(data, protocol.end)
    if type(system.value) is not dict:
        raise ConversionError("a pickle, but not one that torch.save wrote")
    if system.value.get("little_endian") is not (sys.byteorder == "little"):
        raise ConversionError("saved on a machine of the other byte order")
    return parse(data, system.end, storages=True)


def _is(value: Any, number: int) -> bool:
    return type(value) is int and value == number


def _storages_behind(
    data: mmap.mmap, keys: Parsed, used: dict[str, Storage]
) -> dict[str, memoryview]:
    """The storages that follow the list of keys, each preceded by its element count."""
    sizes = {key: _nbytes(used[key]) for key in keys.value if key in used}
    if len(sizes) != len(keys.value):
        raise ConversionError("its list of storages does not fit the tensors that use them")
    least = keys.end + sum(8 + size for size in sizes.values())
    if least > len(data):
        raise ConversionError(_cut_short(len(data), least))
    found: dict[str, memoryview] = {}
    position = keys.end
    for key, size in sizes.items():
        count = int.from_bytes(data[position : position + 8], sys.byteorder, signed=True)
        if count != used[key].whole:
            raise ConversionError(f"storage {key[:80]} does not fit the tensors that use it")
        position += 8 + size
        found[key] = aligned(memoryview(data)[position - size : position])
    return found
