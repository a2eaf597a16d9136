"""Sentences with a place for the name of a class."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlt.data.resources import resolve
from vlt.data.text_files import read_lines


def checked_template(template: str, where: str) -> str:
    """The template.

    Raises:
        ValueError: it does not have one {}.
    """
    if template.count("{}") != 1:
        raise ValueError(f"{where}: {template!r} must have one {{}}, where the class stands")
    return template


def read_templates(section: Mapping[str, Any], where: str = "") -> list[str]:
    """Those of the file `templates`, one a line, or the one of `template`.

    where: the section's name in messages, with its dot.

    Raises:
        ValueError: no such file, or one without exactly one {}.
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
