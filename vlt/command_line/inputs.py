"""What a new run would read and is not there: said before its folder is made."""

from collections.abc import Iterator

from ml_collections import ConfigDict

from vlt import configuration
from vlt.configuration.checkpoints import how_to_get
from vlt.data.resources import is_made, resolve

OF_DATA = ("manifest", "classes", "answers")


def absent_inputs(config: ConfigDict, training: bool) -> list[str]:
    """A sentence for each folder or file that the config, its rows or repeats name in vain.

    Args:
        training: whether the training set is read, too.
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
        sections = {"data.train": config.data.train} | sections
    for place, section in sections.items():
        for key in OF_DATA:
            name = section.get(key)
            if name and not is_made(name) and not resolve(name).exists():
                yield f"config.{place}.{key}={name}: there is no such file"
