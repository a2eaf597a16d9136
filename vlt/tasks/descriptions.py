"""Descriptions of classes: files of sentences in ETL4Video's layout.

{"0": ["A video about ...", ...], "1": [...]}: keys are class indices, and classes may have
different numbers of sentences.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlt.data.text.text_files import TextFileError, read_json
from vlt.data.text.texts import checked_text
from vlt.data.text.tokenize import Tokenizer
from vlt.tasks.recognition import Descriptions

SHOWN = 5  # examples in a message


class DescriptionError(ValueError):
    """A file of descriptions that cannot be used."""


def read_descriptions(path: Path, names: Sequence[str]) -> list[list[str]]:
    """Sentences of each class, in the order of `names`.

    Raises:
        DescriptionError: no such file, another layout, or too few or too many classes.
    """
    if not path.exists():
        raise DescriptionError(
            f"{path}: there is no such file of descriptions of classes; python -m "
            "data_pipelines.describe_actions makes one"
        )
    try:
        found = read_json(path)
    except TextFileError as error:
        raise DescriptionError(str(error).replace(": not JSON", " is not JSON")) from None
    if not isinstance(found, dict):
        raise DescriptionError(f"{path}: must be an object of class indices, not a list or value")
    keys = {str(index): name for index, name in enumerate(names)}
    _refuse(path, "lacks", [f"{k} ({name})" for k, name in keys.items() if k not in found], names)
    _refuse(path, "has more than the classes:", [k for k in found if k not in keys], names)
    return [_sentences(path, f"{key} ({name})", found[key]) for key, name in keys.items()]


def _sentences(path: Path, named: str, listed: Any) -> list[str]:
    if not isinstance(listed, list) or not listed:
        raise DescriptionError(f"{path}, class {named}: must be a list of sentences")
    try:
        return [checked_text(sentence) for sentence in listed]
    except ValueError as error:
        reason = f"must be a list of sentences, of which one {error}"
        raise DescriptionError(f"{path}, class {named}: {reason}") from None


def _refuse(path: Path, what: str, wrong: Sequence[str], names: Sequence[str]) -> None:
    if wrong:
        more = f", and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise DescriptionError(
            f"{path} {what} {', '.join(wrong[:SHOWN])}{more}; there are {len(names)} classes"
        )


def tokenized(sentences: Sequence[Sequence[str]], tokenizer: Tokenizer) -> Descriptions:
    """Ids of all sentences, and the class of each; those longer than the context are cut."""
    owner = [index for index, own in enumerate(sentences) for _ in own]
    return Descriptions(tokenizer([s for own in sentences for s in own]), np.array(owner))
