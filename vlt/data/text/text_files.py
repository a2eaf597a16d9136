"""Reads untrusted text files, UTF-8, JSON and JSON Lines, and says what is wrong with them.

Whatever a file holds, reading it gives its content or raises a `TextFileError`.
"""

import json
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NoReturn

from vlt.data.text.texts import wrong_characters

LONGEST_LINE = 1 << 25  # bytes
LARGEST_DOCUMENT = 1 << 32  # bytes; all of it may be one line
MOST_DIGITS = 300  # of a whole number, which a float can then hold
SHOWN = 60  # characters of a wrong value in a message

_OTHER_FILES = {  # first bytes of files that people take for text
    b"version https://git-lfs": "a git-lfs pointer: fetch the file itself with `git lfs pull`",
    b"\x1f\x8b": "compressed by gzip: unpack it first",
    b"PK\x03\x04": "a zip archive: unpack it first",
    b"PAR1": "a Parquet file: its name must end in .parquet",
    b"\xff\xfe": "UTF-16: save it as UTF-8",
    b"\xfe\xff": "UTF-16: save it as UTF-8",
}
_PAGES = (b"<!doctype html", b"<html", b"<?xml")


class TextFileError(ValueError):
    """A text file that cannot be used: the message names file, line and reason."""

    def __init__(self, path: str | os.PathLike[str], reason: str, line: int | None = None):
        super().__init__(f"{path}{'' if line is None else f', line {line}'}: {reason}")
        self.path, self.reason, self.line = pathlib.Path(path), reason, line


def read_lines(
    path: str | os.PathLike[str], longest: int = LONGEST_LINE
) -> Iterator[tuple[int, str]]:
    """Line numbers (from 1) and lines of a UTF-8 file, line ends kept, byte order mark dropped.

    Raises:
        TextFileError: there is no such file, it is of another kind, or a line is not UTF-8 or
            longer than `longest` bytes.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(64)
            _refuse_other_files(path, start)
            file.seek(0)
            number = 0
            while line := file.readline(longest + 1):
                number += 1
                if len(line) > longest:
                    raise TextFileError(path, f"longer than {longest:,} bytes", number)
                yield number, _decoded(path, number, line)
    except OSError as error:
        raise TextFileError(path, str(error.strerror or error)) from None


def _refuse_other_files(path: str | os.PathLike[str], start: bytes) -> None:
    for mark, kind in _OTHER_FILES.items():
        if start.startswith(mark):
            raise TextFileError(path, f"is {kind}")
    if start.lstrip().lower().startswith(_PAGES):
        raise TextFileError(path, "is a web page, as servers send in place of a file")


def _decoded(path: str | os.PathLike[str], number: int, line: bytes) -> str:
    if (place := line.find(0)) >= 0:
        reason = f"a NUL at byte {place + 1} of the line, so no text; UTF-16 must be saved as UTF-8"
        raise TextFileError(path, reason, number)
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        reason = f"not UTF-8 (byte {error.start + 1} of the line is {line[error.start]:#x})"
        raise TextFileError(path, reason, number) from None


def read_text(path: str | os.PathLike[str]) -> str:
    """A UTF-8 file's text, without a byte order mark.

    Raises:
        TextFileError: as `read_lines`, with lines of at most LARGEST_DOCUMENT bytes.
    """
    return "".join(line for _, line in read_lines(path, LARGEST_DOCUMENT))


def read_json(path: str | os.PathLike[str]) -> Any:
    """The content of a JSON file.

    Raises:
        TextFileError: as `read_text`, or where `parse_json` raises ValueError.
    """
    try:
        return parse_json(read_text(path))
    except TextFileError:
        raise
    except ValueError as error:
        raise TextFileError(path, str(error)) from None


def read_json_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, Any]]:
    """Line numbers and values of a file with one JSON value per line; blank lines are skipped.

    Raises:
        TextFileError: as `read_lines`, or where `parse_json` raises ValueError.
    """
    for number, line in read_lines(path):
        if not line.strip():
            continue
        try:
            yield number, parse_json(line)
        except ValueError as error:
            hint = "; .jsonl holds one object a line" if line.strip() in ("[", "{") else ""
            raise TextFileError(path, f"{error}{hint}", number) from None


def parse_json(text: str) -> Any:
    """Parses a JSON text.

    Raises:
        ValueError: the text is not JSON, or has a key twice in one object, NaN or an infinity, too
            large a number, too deeply nested values, or invalid characters (`wrong_characters`).
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_int=_whole,
            parse_float=_finite,
        )
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise ValueError(f"not JSON: {error.msg} at {line}column {error.colno}") from None
    except RecursionError:
        raise ValueError("not JSON that can be read: nested too deeply") from None
    if "\\u" in text:  # in UTF-8 text they come from escapes alone
        _refuse_wrong_characters(value)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"an object has the key {twice!r:.{SHOWN}} twice")
    return found


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits is longer than {MOST_DIGITS:,}")
    return int(digits)


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text:.{SHOWN}} is more than a number can be")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"not JSON: {name} is not a JSON number; null is a value that is missing")


def _refuse_wrong_characters(value: Any) -> None:
    """Raises ValueError for an invalid text, with the path to it."""
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        way, value = waiting.pop()
        if isinstance(value, str):
            if wrong := wrong_characters(value):
                raise ValueError(f"{f'`{way}` ' if way else ''}{wrong}")
        elif isinstance(value, list):
            waiting += [(f"{way}[{place}]", each) for place, each in enumerate(value)]
        elif isinstance(value, dict):
            waiting += [("a key", key) for key in value if not key.isascii() or "\0" in key]
            waiting += [(f"{way}.{key}" if way else key, each) for key, each in value.items()]
