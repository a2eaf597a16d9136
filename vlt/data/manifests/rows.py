"""Rows of manifests and other tables: JSON Lines, CSV or Parquet, read strictly."""

import contextlib
import csv
import json
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from vlt.data.text.text_files import TextFileError, parse_json, read_json_lines, read_lines
from vlt.data.text.texts import shown, trimmed

OWN_COLUMNS = ("id", "video", "caption", "label", "question", "answer", "sha256", "conversations")
ROWS_AT_ONCE = 1024  # of a Parquet file


class ManifestError(TextFileError):
    """A manifest, or a file of classes, that cannot be used."""


@contextlib.contextmanager
def manifest_errors() -> Iterator[None]:
    try:
        yield
    except TextFileError as error:
        raise ManifestError(error.path, error.reason, error.line) from None


def _read_json_lines(path: pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with manifest_errors():
        for number, row in read_json_lines(path):
            if not isinstance(row, dict):
                reason = f"must be an object, got {shown(row)}; .jsonl holds one object a line"
                raise ManifestError(path, reason, number)
            yield number, dict(zip(_columns(path, row, number), row.values(), strict=True))


def _read_csv(path: pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, row in csv_rows(path):
        # An empty field is an absent value, so that one file can hold rows of several kinds.
        yield number, {k: v for k, v in row.items() if v != ""}


def csv_rows(path: pathlib.Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line numbers and rows of a CSV file with a header; a row's number is that of its last line.

    Raises:
        ManifestError: the file is not text, or not such CSV.
    """
    columns: list[str] = []
    with manifest_errors():
        for number, fields in _csv_fields(path):
            if not columns:
                columns = _columns(path, fields, number)
                _check_delimiter(path, columns)
            elif len(fields) != len(columns):
                reason = f"must have {len(columns)} fields, as the header has, not {len(fields)}"
                raise ManifestError(path, reason, number)
            else:
                yield number, dict(zip(columns, fields, strict=True))


def _csv_fields(path: pathlib.Path) -> Iterator[tuple[int, list[str]]]:
    """The number of the last line and the fields of each row that has any."""
    reader = csv.reader((text for _, text in read_lines(path)), strict=True, skipinitialspace=True)
    before = 0
    try:
        for fields in reader:
            if fields:
                yield reader.line_num, fields
            before = reader.line_num
    except csv.Error as error:
        began = before + 1
        reason = f"not CSV: {error}"
        if began < reader.line_num:
            reason += f"; this row begins in line {began}: is a quote there never closed?"
        raise ManifestError(path, reason, reader.line_num) from None


def _check_delimiter(path: pathlib.Path, columns: Sequence[str]) -> None:
    found = [mark for mark in ";\t|" if mark in columns[0]]
    if len(columns) == 1 and found:
        raise ManifestError(
            path, f"its columns must be separated by commas, not by {found[0]!r}", 1
        )


def _read_parquet(path: pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise ManifestError(path, "reading Parquet needs pyarrow: pip install pyarrow") from None
    number = 0
    try:
        file = parquet.ParquetFile(path)
        if file.metadata.num_rows > 8 * path.stat().st_size:
            raise ManifestError(path, f"claims {file.metadata.num_rows:,} rows, more than it holds")
        columns = _columns(path, file.schema_arrow.names)
        for batch in file.iter_batches(ROWS_AT_ONCE):
            values = [_values(path, *each, number) for each in zip(columns, batch, strict=True)]
            for row in zip(*values, strict=True):
                number += 1
                yield number, {k: v for k, v in zip(columns, row, strict=True) if v is not None}
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise ManifestError(path, f"not Parquet, or damaged: {error}") from None


def _values(path: pathlib.Path, name: str, column: Iterable[Any], before: int) -> list[Any]:
    """Values of an Arrow column, after `before` rows that were read earlier."""
    found: list[Any] = []
    for cell in column:
        try:
            found.append(cell.as_py())
        except (ValueError, OverflowError) as error:
            reason = f"`{name}` cannot be read: {error}"
            raise ManifestError(path, reason, before + len(found) + 1) from None
    return found


def _columns(path: pathlib.Path, names: Iterable[str], line: int | None = None) -> list[str]:
    """Column names, stripped of white space; several columns may be without a name.

    Raises:
        ManifestError: a name occurs twice; one of `OWN_COLUMNS`, even if the case differs.
    """
    found, first = [trimmed(name) for name in names], dict[str, str]()
    for name in filter(None, found):
        low = name.casefold()
        key = low if low in OWN_COLUMNS else name
        if key in first:
            reason = f"has two columns `{first[key]}` and `{name}`, which must be one"
            raise ManifestError(path, reason, line)
        first[key] = name
    return found


READERS = {".jsonl": _read_json_lines, ".csv": _read_csv, ".parquet": _read_parquet}


def json_rows(path: pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and rows of a table that can be written as JSON, and read again.

    Raises:
        ManifestError: as the table's reader, or a value is one that JSON cannot hold, such as a
            date or NaN.
    """
    rows = READERS[path.suffix](path)
    if path.suffix != ".parquet":  # other tables hold text, or values that came from JSON
        yield from rows
        return
    for number, row in rows:
        for column, value in row.items():
            try:
                parse_json(json.dumps(value, allow_nan=False))
            except (TypeError, ValueError):
                reason = f"`{column}` is {shown(value)}, which JSON cannot hold: make it text"
                raise ManifestError(path, reason, number) from None
        yield number, row
