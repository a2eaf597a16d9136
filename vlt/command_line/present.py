"""Checks that what a command reads exists, before anything large is imported."""

import sys
from pathlib import Path

from vlt.storage.places import is_absent, no_index


def check_model(model: str | None, workdir: Path | None = None) -> None:
    """Ends the process if the folder of the model, or of the run, does not exist."""
    if workdir is not None:
        check_run(workdir)
    elif model:
        from vlt.configuration.checkpoints import how_to_get
        from vlt.data.manifests.resources import resolve

        if not resolve(model).exists():
            sys.exit(f"error: {model}: no such folder{how_to_get(model)}")


def check_run(workdir: Path) -> None:
    """Ends the process if the folder is not that of a run."""
    from vlt.configuration import ConfigError, load_saved

    try:
        load_saved(workdir)
    except ConfigError as error:
        sys.exit(f"error: {error}")


def check_paths(*paths: Path) -> None:
    """Ends the process if one of the paths does not exist."""
    for path in paths:
        if not path.exists():
            sys.exit(f"error: {path}: no such file or folder")


def check_index(uri: str) -> None:
    """Ends the process if the folder of an index that is to be opened does not exist."""
    if is_absent(uri):
        sys.exit(f"error: {no_index(uri)}")
