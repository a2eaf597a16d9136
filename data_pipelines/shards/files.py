"""Files here, or on any file system that Apache Beam supports (gs://, s3://, hdfs:// ...)."""

import contextlib
import os
import pathlib
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from typing import Any


def is_remote(path: str) -> bool:
    """Whether the path is on a file system that is read through Beam."""
    return "://" in path


def join(folder: str, name: str) -> str:
    """Path of `name` in `folder`; a full path, in a local folder, stays as it is."""
    return f"{folder.rstrip('/')}/{name}" if is_remote(folder) else os.path.join(folder, name)


def read(path: str) -> bytes | None:
    """The file's bytes, or None if there is no such file."""
    if is_remote(path):
        if not _systems().exists(path):
            return None
        with _systems().open(path, "application/octet-stream") as file:
            return file.read()
    try:
        return pathlib.Path(path).read_bytes()
    except FileNotFoundError:
        return None


def write(path: str, content: bytes) -> None:
    """Writes a file, entirely or not at all."""
    with tempfile.TemporaryDirectory() as folder:
        partial = pathlib.Path(folder) / "content"
        partial.write_bytes(content)
        publish(str(partial), path)


def publish(local: str, path: str) -> None:
    """Copies a file to `path`, where it appears entirely or not at all, even after a crash."""
    partial = f"{path}.{uuid.uuid4().hex}.partial"
    if is_remote(path):
        with open(local, "rb") as source, _systems().create(partial) as target:
            shutil.copyfileobj(source, target, 1 << 20)
        if _systems().exists(path):  # from a worker that did the same work
            _systems().delete([path])
        _systems().rename([partial], [path])
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(local, "rb") as source, open(partial, "xb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
        target.flush()
        os.fsync(target.fileno())
    os.replace(partial, path)


def names(folder: str) -> list[str]:
    """Names of the files in a folder, locally also of its subfolders; [] if it does not exist."""
    if not is_remote(folder):
        return sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    found = _systems().match([join(folder, "*")])[0].metadata_list
    return sorted(entry.path.rstrip("/").rpartition("/")[2] for entry in found)


def remove(paths: Sequence[str]) -> None:
    """Removes files."""
    remote = [path for path in paths if is_remote(path)]
    if remote:
        _systems().delete(remote)
    for path in paths:
        if not is_remote(path):
            os.remove(path)


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[str]:
    """A path on this machine with the same content: `path` itself if it is local."""
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, os.path.basename(path))
        if _systems().exists(path):  # otherwise opening the copy fails
            source = _systems().open(path, "application/octet-stream")
            with source, open(copy, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
        yield copy


def _systems() -> Any:
    from apache_beam.io.filesystems import FileSystems

    return FileSystems
