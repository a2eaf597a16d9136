"""The frame of a command that runs a model over videos: the model, how it ends."""

import dataclasses
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from vlt.api import as_model
from vlt.command_line import reader_gone
from vlt.configuration import ConfigError
from vlt.data.texts import printable
from vlt.model_io.folder import ModelFolderError
from vlt.model_io.loading import load_folder
from vlt.models.search import Search
from vlt.runtime import stopping
from vlt.storage.trees import CheckpointError
from vlt.training.trained import trained_model

EXPECTED = (CheckpointError, ConfigError, ModelFolderError, ValueError)  # a user can mend


def load_kind(
    model: str, workdir: Path | None, kinds: tuple[str, ...], lacks: str, weights: str = ""
) -> Any:
    """The model of a folder, or of a run, as `vlt.load` gives it.

    Args:
        kinds: of spec, that the command is for. lacks: what others do not do, as a verb.
        weights: as of `vlt.load`.

    Raises:
        ModelFolderError, ConfigError, CheckpointError: nothing whole is there.
        ValueError: another kind of model, or one that there is no memory for.
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
    """['key=value', ...] -> fields of `Search`. defaults: of a model, where not Search's.

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
    Search(**(dict(defaults or {}) | options))  # before any video is read
    return options


def run_door(body: Callable[[], int]) -> int:
    """The exit status of a command: that of its body, or 1 after a sentence on what is wrong.

    Ctrl-C or SIGTERM ends it with what is printed so far and the status that shells expect, and so
    does a reader of its output that has gone, such as `head`.
    """
    with stopping.signals():
        try:
            return body()
        except EXPECTED as error:
            print(printable(f"error: {error}"), file=sys.stderr)
            return 1
        except BrokenPipeError:
            return reader_gone()
        except stopping.Stopped:
            return stopping.status()
