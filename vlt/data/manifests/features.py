"""Features of videos in files: numpy's .npz of plain numbers; reading one runs no code."""

import os
import pathlib
import zipfile

import numpy as np

from vlt.storage.files import new_file

NAME = "features"  # name of the array in a file


class FeatureError(ValueError):
    """A file of features that cannot be used, or features that no file can hold."""


def write_features(path: pathlib.Path, features: np.ndarray) -> None:
    """Writes features [t, n, d] in 16 bits, whole or not at all.

    Raises:
        FeatureError: a feature is not finite in 16 bits.
        WriteError: the file cannot be written.
    """
    with np.errstate(over="ignore"):
        stored = np.asarray(features, np.float32).astype(np.float16)
    if not np.isfinite(stored).all():
        raise FeatureError(f"{path}: features that are not finite, or too large for 16 bits")
    with new_file(path) as unfinished:
        np.savez(unfinished, features=stored)


def read_features(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads features, float16 [t, n, d].

    Raises:
        FeatureError: the file is missing, damaged or of another kind, or a feature is not finite.
    """
    try:
        file = np.load(path, allow_pickle=False)
        found = file[NAME] if isinstance(file, np.lib.npyio.NpzFile) and NAME in file else None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise FeatureError(f"{path}: cannot be read as .npz: {error}") from None
    if found is None:
        raise FeatureError(f"{path}: no .npz file with an array `{NAME}`")
    if found.dtype != np.float16 or found.ndim != 3 or not found.size:
        raise FeatureError(
            f"{path}: `{NAME}` must be float16 [t, n, d], is {found.dtype} {list(found.shape)}"
        )
    if not np.isfinite(found).all():
        raise FeatureError(f"{path}: `{NAME}` is not finite")
    return found
