"""Checksums of files, which reveal any change of their bytes."""

import hashlib

from vlt.data.video import errors
from vlt.data.video.containers import check_is_file


def sha256_of(path: str) -> str:
    """SHA-256 of a file, in hexadecimal. Raises: errors.CannotOpen."""
    check_is_file(path)
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise errors.CannotOpen(path, f"cannot be opened: {error.strerror}") from error


def verify(path: str, sha256: str) -> None:
    """Raises errors.ChangedFile unless the file's SHA-256 is `sha256`; errors.CannotOpen."""
    found = sha256_of(path)
    if found != sha256.lower():
        reason = f"its sha256 is {found} instead of the manifest's {sha256}"
        raise errors.ChangedFile(path, reason)
