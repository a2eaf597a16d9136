"""Files that appear whole or not at all, and are never written through a link.

A file or folder is created under an unused name and renamed once it is whole, so a killed writer
leaves nothing that could be mistaken for a result, and what a link points to is left alone.
"""

import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError


class WriteError(OSError, ValueError):
    """Something cannot be written, or writing it would replace something else."""


def check_target(path: Path) -> None:
    """Creates the folders above a file or folder that will be written, before any work on it.

    Raises:
        WriteError: it is a link, or nothing can be written there.
    """
    refuse_link(path)
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.absolute().parent).close()
    except OSError as error:
        raise _failed(path, error) from error


def refuse_link(path: Path) -> None:
    """Raises WriteError where `path` is a link: writing would change, or lose, another file."""
    if os.path.islink(path):
        raise WriteError(
            f"{path} is a link to {os.readlink(path)}; what is written here replaces or follows no "
            "links: remove it, or name another place"
        )


def write_whole(file: Path, content: str | bytes) -> None:
    """Writes a file, replacing any of that name.

    Raises:
        WriteError: it is a link or a folder, or cannot be written.
    """
    with new_file(file) as unfinished:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def new_file(file: Path) -> Iterator[Path]:
    """Yields an empty file with the same suffix; it takes its name if the block ends without error.

    Raises:
        WriteError: as `write_whole`; also for an OSError or a SafetensorError of the block.
    """
    refuse_link(file)
    unfinished = unfinished_name(file)
    try:
        # As open(file, "x") creates it, so that its permissions are those of any new file.
        os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        yield unfinished
        os.replace(unfinished, file)
    except WriteError:
        raise
    except (OSError, SafetensorError) as error:
        raise _failed(file, error) from error
    finally:
        with suppress(OSError):  # the block's own error is the one to tell
            unfinished.unlink()


def unfinished_name(path: Path) -> Path:
    """An unused, hidden name beside `path`, with the same suffix."""
    stem = shortened(path.stem, 100)
    return path.with_name(f".{stem}.unfinished-{secrets.token_hex(8)}{path.suffix}")


def shortened(name: str, most: int) -> str:
    """The beginning of a name, whole characters of at most `most` bytes in all."""
    return os.fsencode(name)[:most].decode(errors="ignore")


def append(file: Path, text: str) -> None:
    """Appends text to a file, creating it if absent, and syncs it to disk.

    Raises:
        WriteError: it is a link, or cannot be written.
    """
    refuse_link(file)
    try:
        with file.open("a", encoding="utf-8") as opened:
            opened.write(text)
            opened.flush()
            os.fsync(opened.fileno())
    except OSError as error:
        raise _failed(file, error) from error


def foreign_entries(folder: Path, written: re.Pattern[str]) -> list[str]:
    """Paths in a folder that do not match the pattern of what is written there, and all links."""
    found = []
    for here, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(here, name)
            relative = path.relative_to(folder).as_posix()
            if path.is_symlink() or not written.fullmatch(relative):
                found.append(relative)
    return sorted(found)


def listed(names: list[str], most: int = 5) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _failed(path: Path, error: Exception) -> WriteError:
    reason = getattr(error, "strerror", None) or str(error)
    if isinstance(error, FileExistsError) and error.filename:
        reason = f"{error.filename} is a file, not a folder"
    return WriteError(f"{path} cannot be written: {reason}")
