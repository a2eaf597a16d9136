"""Reads JSON from untrusted sources: as a whole, or refused with a one-sentence error."""

import collections
import json
from pathlib import Path
from typing import Any

from vlt.convert.errors import ConversionError
from vlt.convert.files.impostors import describe_impostor


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises ConversionError: no such file, another kind of file, or as `parse_json`.
    """
    if not path.is_file():
        raise ConversionError(f"{path}: no such file, or not a plain one")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConversionError(f"{path}: {error.strerror}") from error
    try:
        return parse_json(data, path)
    except ConversionError as error:
        other = None if data.lstrip().startswith((b"{", b"[")) else describe_impostor(path)
        raise ConversionError(f"{path}: {other}") if other else error from error


def parse_json(data: bytes, where: object) -> dict[str, Any]:
    """The object in JSON text, in UTF-8.

    Raises ConversionError: not JSON, nested too deeply, a key twice in an object, or not an object.
    """
    try:
        content = json.loads(data.decode("utf-8"), object_pairs_hook=_distinct)
    except RecursionError as error:
        raise ConversionError(f"{where}: not readable JSON: nested too deeply") from error
    except ValueError as error:
        raise ConversionError(f"{where}: not readable JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConversionError(f"{where}: holds a {type(content).__name__}, not an object")
    return content


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        counts = collections.Counter(key for key, _ in pairs)
        raise ValueError(f"the key {counts.most_common(1)[0][0][:80]!r} occurs twice in one object")
    return content
