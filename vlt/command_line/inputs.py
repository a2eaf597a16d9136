"""Inputs that a new run would read but that are missing, reported before its folder is made."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from ml_collections import ConfigDict

from vlt import configuration
from vlt.configuration.checkpoints import how_to_get
from vlt.data.manifests.resources import is_made, resolve

# Keys of data, evaluations and tasks that name one or several files.
FILES = ("manifest", "classes", "answers", "templates", "descriptions", "sentences")
# Folders of `data` whose program in data_pipelines has another name.
PROGRAMS = {"k400": "kinetics", "descriptions": "describe_actions"}


def absent_inputs(config: ConfigDict, training: bool) -> list[str]:
    """A sentence for each missing folder or file that the config, its rows or repeats name.

    Args:
        training: whether the training set is read as well.
    """
    rows = (row for _, row in configuration.rows_of(config))
    runs = (run for row in rows for _, run in configuration.repeats_of(row))
    return list(dict.fromkeys(told for run in runs for told in _absent(run, training)))


def _absent(config: ConfigDict, training: bool) -> Iterator[str]:
    for key in ("checkpoint", "tokenizer"):
        name = config.model[key]
        if name and not resolve(name).is_dir():
            yield f"config.model.{key}={name}: no such folder{how_to_get(name)}"
    sections = {f"evals.{name}": section for name, section in config.evals.items()}
    if training and config.train.steps:
        sections = {"data.train": config.data.train, "task": config.task} | sections
    for place, section in sections.items():
        for key, name in _files(section):
            if not is_made(name) and not resolve(name).exists():
                yield f"config.{place}.{key}={name}: there is no such file{_how_to_make(name)}"


def _files(section: ConfigDict) -> Iterator[tuple[str, str]]:
    for key in FILES:
        named = section.get(key) or ()
        yield from ((key, name) for name in ([named] if isinstance(named, str) else named))


def _how_to_make(name: str) -> str:
    """What an error adds about data/NAME/FILE, if `data_pipelines` knows that data set."""
    parts = Path(name).parts
    program = PROGRAMS.get(parts[1], parts[1]) if len(parts) > 2 and parts[0] == "data" else ""
    if not program.isidentifier() or find_spec(f"data_pipelines.{program}") is None:
        return ""
    return f"; python -m data_pipelines.{program} makes it; --help says of what"
