"""torch's three file formats as numpy: zip archives, TorchScript archives, the old pickle format.

Formats: torch/serialization.py (zip since 1.6, else five pickles and the storages behind them).
"""

import io
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from vlt.convert.errors import ConversionError, UnsafePickleError
from vlt.convert.pickles import Inert, RestrictedUnpickler

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001


def read_torch_file(path: Path) -> Any:
    """The saved object, tensors as numpy arrays, TorchScript modules as nested dicts.

    Raises ConversionError when it can't be read, UnsafePickleError when it asks for code.
    """
    saved = _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
    try:
        return _plain(saved)
    except RecursionError as error:
        raise ConversionError(f"{path}: holds a container that contains itself") from error


def _read_zip(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(names) != 1:
                raise ConversionError(f"{path}: a zip file, but not one that torch saved")
            root = names[0].removesuffix("data.pkl")
            if root + "byteorder" in archive.namelist():
                order = archive.read(root + "byteorder").decode()
                if order != sys.byteorder:
                    raise ConversionError(f"{path}: saved with {order}-endian numbers")
            storages: dict[str, np.ndarray] = {}

            def storage(dtype: np.dtype, key: str, count: int) -> np.ndarray:
                if key not in storages:
                    storages[key] = np.frombuffer(archive.read(f"{root}data/{key}"), np.uint8)
                nbytes = count * dtype.itemsize
                if storages[key].size < nbytes:
                    raise ConversionError(f"{path}: storage {key} is cut short")
                return storages[key][:nbytes].view(dtype)

            with archive.open(names[0]) as stream:
                return RestrictedUnpickler(stream, f"{path}", storage).read()
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError) as error:
        raise ConversionError(f"{path}: broken zip archive: {error}") from error


def _read_legacy(path: Path) -> Any:
    with path.open("rb") as stream:
        head = stream.read(300)
        if not head:
            raise ConversionError(f"{path}: empty file")
        if head[257:262] == b"ustar":
            raise ConversionError(
                f"{path}: the tar format of torch before 0.1.10; save it again with a recent torch"
            )
        stream.seek(0)
        return _read_pickles(path, stream)


def _read_pickles(path: Path, stream: io.BufferedReader) -> Any:
    storages: dict[str, np.ndarray] = {}

    def storage(dtype: np.dtype, key: str, count: int) -> np.ndarray:
        # The bytes come after the object: allocate now, fill below.
        return storages.setdefault(key, np.zeros(count, dtype))

    def following(with_storage: bool = False) -> Any:
        return RestrictedUnpickler(stream, f"{path}", storage if with_storage else None).read()

    try:
        magic = following()
    except UnsafePickleError:
        raise
    except ConversionError as error:
        raise ConversionError(f"{path}: not a file that torch saved") from error
    if magic != _MAGIC or following() != _PROTOCOL:
        raise ConversionError(f"{path}: a pickle, but not one that torch.save wrote")
    system = following()
    if system.get("little_endian") is not (sys.byteorder == "little"):
        raise ConversionError(f"{path}: saved on a machine of the other byte order")
    result = following(with_storage=True)
    for key in following():
        _fill(path, stream, key, storages)
    return result


def _fill(path: Path, stream: io.BufferedReader, key: str, storages: dict[str, np.ndarray]) -> None:
    count = int.from_bytes(stream.read(8), sys.byteorder, signed=True)
    target = storages.get(key)
    if target is None or target.size != count:
        raise ConversionError(f"{path}: storage {key} does not fit the tensors that use it")
    if stream.readinto(target.view(np.uint8).data) != target.nbytes:
        raise ConversionError(f"{path}: cut short in storage {key}")


def _plain(value: Any) -> Any:
    """Inert objects and numpy holders -> dicts and arrays."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Inert):
        return {key: _plain(item) for key, item in vars(value).items()}
    return getattr(value, "array", value)
