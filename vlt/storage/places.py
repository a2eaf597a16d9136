"""Where an index is kept: in a folder, or in an object store, as s3://... or gs://..."""

from pathlib import Path


def is_folder(uri: str) -> bool:
    """Whether the index is on this machine's disk."""
    return "://" not in uri


def is_absent(uri: str) -> bool:
    """Whether it is a folder that does not exist; never true for an object store."""
    return is_folder(uri) and not Path(uri).is_dir()


def no_index(uri: str) -> str:
    """The error message for a place without an index."""
    return f"{uri}: no index there; `vlt embed VIDEO... --out={uri}`"
