"""Texts of classes: templates with a place for a class name, or sentences that describe classes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlt.data.manifests.resources import resolve
from vlt.data.text.text_files import read_lines
from vlt.data.text.tokenize import Tokenizer
from vlt.models.video_model import VideoModel


def checked_template(template: str, where: str) -> str:
    """Checks and returns a template.

    Raises:
        ValueError: it does not have exactly one {}.
    """
    if template.count("{}") != 1:
        raise ValueError(f"{where}: {template!r} must have one {{}}, where the class stands")
    return template


def read_templates(section: Mapping[str, Any], where: str = "") -> list[str]:
    """The templates in the file `templates`, one per line, or the single `template`.

    where: the section's name in messages, with its dot.

    Raises:
        ValueError: no such file, no template in it, or one without exactly one {}.
    """
    if not section["templates"]:
        return [checked_template(section["template"], f"{where}template")]
    path = resolve(section["templates"])
    lines = _lines(path, where)
    return [checked_template(line, f"{path}, line {number}") for number, line in lines]


def _lines(path: Path, where: str) -> list[tuple[int, str]]:
    if not path.is_file():
        raise ValueError(f"{where}templates: there is no file {path}")
    found = [(number, line.strip()) for number, line in read_lines(path) if line.strip()]
    if not found:
        raise ValueError(f"{where}templates: {path} holds no template")
    return found


def class_texts(
    names: Sequence[str], templates: Sequence[str], tokenizer: Tokenizer, longest: int
) -> np.ndarray:
    """Ids [c * k, l] of c classes in k templates, class after class. Texts longer than the context
    are cut, with a warning, as long as they still identify their class.

    longest: highest value, in tokens, that `model.context` may have.

    Raises:
        ValueError: a text is cut, but `model.context` could be larger; a name alone is longer than
            the context; or texts of two classes are the same once they are cut.
    """
    texts = [template.replace("{}", name) for name in names for template in templates]
    before = tokenizer.cut
    ids = tokenizer(texts)
    if count := tokenizer.cut - before:
        if tokenizer.context < longest:
            raise ValueError(
                f"{count} texts of classes are longer than model.context={tokenizer.context} "
                f"tokens, such as {max(texts, key=len)!r:.120}; the text tower has {longest}, of "
                "which methods may need some"
            )
        _check_names(names, tokenizer)
        owners = [name for name in names for _ in templates]
        _check_cut(owners, texts, ids, tokenizer)
    return ids


def _check_names(names: Sequence[str], tokenizer: Tokenizer) -> None:
    for name in names:
        if (length := tokenizer.length(name)) > tokenizer.context:
            raise ValueError(
                f"the name of a class, {name!r:.120}, has {length} tokens by itself; a text has "
                f"{tokenizer.context}, and what is cut off would not tell it from others"
            )


def _check_cut(
    names: Sequence[str], texts: Sequence[str], ids: np.ndarray, tokenizer: Tokenizer
) -> None:
    """Raises ValueError where cut texts of two classes are the same. names: each text's class."""
    of_rows: dict[bytes, str] = {}
    for name, text, row in zip(names, texts, ids, strict=True):
        if tokenizer.length(text) <= tokenizer.context:
            continue
        other = of_rows.setdefault(row.tobytes(), name)
        if other != name:
            raise ValueError(
                f"the texts of the classes {other!r:.120} and {name!r:.120} are the same once they "
                f"are cut to {tokenizer.context} tokens: {text!r:.120}; take a shorter template"
            )


def check_sentences(model: VideoModel, kinds: int, where: str = "") -> None:
    """Raises ValueError if a model that reads sentences gets none, or another model gets some."""
    if model.reads_sentences and not kinds:
        raise ValueError(
            f"{where}sentences=(): the model reads sentences that describe classes; name files of "
            "them, one for each kind (python -m data_pipelines.describe_actions makes such)"
        )
    if kinds and not model.reads_sentences:
        raise ValueError(
            f"{where}sentences name {kinds} kinds, and no method of the model reads them; leave "
            "them out, or take ost into model.methods"
        )
