"""What commands that run a model over videos share: how they load the model, and how they end."""

import dataclasses
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from vlt.api import as_model
from vlt.command_line import reader_gone, why
from vlt.configuration import ConfigError
from vlt.data.text.texts import printable
from vlt.model_io.folder import ModelFolderError
from vlt.model_io.loading import load_folder
from vlt.models.search import Search
from vlt.runtime import stopping
from vlt.storage.trees import CheckpointError
from vlt.training.trained import trained_model

# What a user can mend.
EXPECTED = (CheckpointError, ConfigError, ModelFolderError, ValueError, OSError)


def load_kind(
    model: str, workdir: Path | None, kinds: tuple[str, ...], lacks: str, weights: str = ""
) -> Any:
    """Loads the model of a folder or of a run, as `vlt.load` returns it.

    Args:
        kinds: kinds of spec that the command takes. lacks: what others lack, as a verb phrase.
        weights: as in `vlt.load`.

    Raises:
        ModelFolderError, ConfigError, CheckpointError: the folder or run is absent or incomplete.
        ValueError: another kind of model, or one that needs more memory than there is.
    """
    if workdir is None:
        loaded = load_folder(model, weights=weights)
    else:
        loaded = trained_model(workdir, weights=weights)
    kind = loaded.config.spec.kind
    if kind not in kinds:
        raise ValueError(f"{workdir or model} is a {kind}, which {lacks}")
    return as_model(loaded)


def parse_search(pairs: Iterable[str], defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """['key=value', ...] -> fields of `Search`. defaults: a model's, where they are not Search's.

    Raises:
        ValueError: an unknown key, a value of another type, or one out of range.
    """
    types = {field.name: type(field.default) for field in dataclasses.fields(Search)}
    options = {}
    for pair in pairs:
        key, _, text = pair.partition("=")
        if key not in types:
            raise ValueError(f"--set {pair}: key=value with one of {', '.join(types)}")
        try:
            options[key] = types[key](text)
        except ValueError as error:
            raise ValueError(f"--set {pair}: {error}") from error
    Search(**(dict(defaults or {}) | options))  # checks them before any video is read
    return options


def run_door(body: Callable[[], int], expected: tuple[type[Exception], ...] = ()) -> int:
    """Runs a command's body and returns its exit status, or 1 after printing what is wrong.

    expected: errors that a user can mend, besides those of every command.

    Ctrl-C and SIGTERM end it with what is printed so far and the status that shells expect, and so
    does a closed pipe, such as one to `head`.
    """
    with stopping.signals():
        try:
            return body()
        except BrokenPipeError:
            return reader_gone()
        except (*EXPECTED, *expected) as error:
            print(printable(f"error: {why(error)}"), file=sys.stderr)
            return 1
        except stopping.Stopped:
            return stopping.status()
