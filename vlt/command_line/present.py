"""Folders and files that a command reads: told to be absent before anything large is imported."""

import sys
from pathlib import Path

from vlt.storage.places import is_absent, no_index


def check_model(model: str | None, workdir: Path | None = None) -> None:
    """Ends the process where the folder of the model, or of the run, is not there."""
    from vlt.configuration import ConfigError, load_saved
    from vlt.configuration.checkpoints import how_to_get
    from vlt.data.resources import resolve

    if workdir is not None:
        try:
            load_saved(workdir)
        except ConfigError as error:
            sys.exit(f"error: {error}")
    elif model and not resolve(model).exists():
        sys.exit(f"error: {model}: no such folder{how_to_get(model)}")


def check_paths(*paths: Path) -> None:
    """Ends the process where one is not there."""
    for path in paths:
        if not path.exists():
            sys.exit(f"error: {path}: no such file or folder")


def check_index(uri: str) -> None:
    """Ends the process where an index is to be opened and its folder is not there."""
    if is_absent(uri):
        sys.exit(f"error: {no_index(uri)}")
