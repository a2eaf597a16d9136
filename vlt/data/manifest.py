"""Manifests: which videos a data set has and what is said of them.

JSON Lines (.jsonl), CSV (.csv) or Parquet (.parquet) with a column `video` (path, relative to the
manifest) and one of `caption` (text or list of texts), `label`, or `question` with `answer` (text
or list of texts). `id` names a row, `sha256` is the sum of the file's bytes, checked whenever it is
read; further columns are kept. A path may also name the record of a shard (vlt/data/shards.py).
"""

import csv
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vlt.data.shards import broken_shards, shard_of

TARGETS = "`caption`, `label`, or `question` with `answer`"
SHOWN = 5  # examples in a message


class ManifestError(ValueError):
    """A manifest that cannot be used: the message names file, line and reason."""

    def __init__(self, path: pathlib.Path, reason: str, line: int | None = None):
        super().__init__(f"{path}{'' if line is None else f', line {line}'}: {reason}")
        self.path, self.reason, self.line = path, reason, line


@dataclasses.dataclass(frozen=True)
class Record:
    """One row of a manifest.

    Attributes:
        id: the row's `id`, or else its `video` as written there.
        video: path of the file, the manifest's folder included.
        captions: none, one or several.
        extra: all other columns.
        line: line of the file (from 1), of a Parquet file the row (from 1).
        sha256: what the file's bytes must have, in hexadecimal; '' where the row does not tell.
    """

    id: str
    video: str
    captions: tuple[str, ...]
    label: str | None
    question: str | None
    answers: tuple[str, ...]
    extra: Mapping[str, Any]
    line: int
    sha256: str = ""


def read_manifest(path: str | os.PathLike[str], check_videos: bool = True) -> list[Record]:
    """Reads a manifest.

    Args:
        path: a .jsonl, .csv or .parquet file.
        check_videos: whether every video file must be there now.

    Raises:
        ManifestError: the file is missing, empty or of another kind, or a row is wrong.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ManifestError(path, "there is no such file")
    reader = READERS.get(path.suffix)
    if reader is None:
        raise ManifestError(path, f"must end in one of {', '.join(READERS)}")
    records, lines_of_ids = [], dict[str, int]()
    for line, row in reader(path):
        record = _record(path, line, row)
        earlier = lines_of_ids.setdefault(record.id, line) if "id" in row else line
        if earlier != line:
            raise ManifestError(path, f"id {record.id!r} is that of line {earlier}", line)
        records.append(record)
    if not records:
        raise ManifestError(path, "holds no rows")
    if check_videos:
        _check_videos(path, records)
    return records


def _lines(path: pathlib.Path) -> Iterator[tuple[int, str]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                reason = f"not UTF-8 (byte {error.start + 1} of the line is {line[error.start]:#x})"
                raise ManifestError(path, reason, number) from None


def _read_json_lines(path: pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            reason = f"not JSON: {error.msg} at column {error.colno}"
            raise ManifestError(path, reason, number) from None
        if not isinstance(row, dict):
            raise ManifestError(path, f"must be an object, is {_kind(row)}", number)
        yield number, row


def _read_csv(path: pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader((line for _, line in _lines(path)), strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                columns = len(reader.fieldnames or ())
                raise ManifestError(path, f"must have {columns} fields", reader.line_num)
            # An empty field is an absent value, so that one file can hold rows of several kinds.
            yield reader.line_num, {k: v for k, v in row.items() if v != ""}
    except csv.Error as error:
        raise ManifestError(path, f"not CSV: {error}", reader.line_num) from None


def _read_parquet(path: pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise ManifestError(path, "reading Parquet needs pyarrow: pip install pyarrow") from None
    try:
        table = parquet.read_table(path)
    except (ArrowException, OSError) as error:
        raise ManifestError(path, f"not Parquet: {error}") from None
    for number, row in enumerate(table.to_pylist(), 1):
        yield number, {k: v for k, v in row.items() if v is not None}


READERS = {".jsonl": _read_json_lines, ".csv": _read_csv, ".parquet": _read_parquet}
OWN_COLUMNS = ("id", "video", "caption", "label", "question", "answer", "sha256")


def _record(path: pathlib.Path, line: int, row: dict[str, Any]) -> Record:
    def fail(reason: str) -> ManifestError:
        return ManifestError(path, reason, line)

    columns = ", ".join(row) or "none"
    if "video" not in row:
        raise fail(f"has no `video`; its columns are: {columns}")
    if not ("caption" in row or "label" in row or {"question", "answer"} <= row.keys()):
        raise fail(f"has none of {TARGETS}; its columns are: {columns}")
    wrong = _wrong_value(row)
    if wrong:
        raise fail(wrong)
    if "sha256" in row and shard_of(row["video"]):
        raise fail("`sha256` is of files; the records of shards have checksums of their own")
    label = row.get("label")
    return Record(
        id=str(row.get("id", row["video"])),
        video=str(path.parent / row["video"]),
        captions=texts(row.get("caption", ())),
        label=None if label is None else str(label),
        question=row.get("question"),
        answers=texts(row.get("answer", ())),
        extra={k: v for k, v in row.items() if k not in OWN_COLUMNS},
        line=line,
        sha256=row.get("sha256", ""),
    )


def _wrong_value(row: Mapping[str, Any]) -> str | None:
    """Why a value of the row cannot be used, or None."""
    for column in (c for c in OWN_COLUMNS if c in row):
        value, wanted = row[column], "text"
        good = isinstance(value, str) and bool(value.strip())
        if column in ("id", "label"):
            wanted = "text or a whole number"
            good |= isinstance(value, int) and not isinstance(value, bool)
        elif column in ("caption", "answer"):
            wanted = "text or a list of texts"
            good |= isinstance(value, list) and all(isinstance(t, str) and t.strip() for t in value)
            good &= bool(value)
        if not good:
            return f"`{column}` must be {wanted} and not empty, is {_kind(value)}: {value!r}"
    return None


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def texts(value: str | Sequence[str]) -> tuple[str, ...]:
    """One text or several, as several."""
    return (value,) if isinstance(value, str) else tuple(value)


def read_classes(path: str | os.PathLike[str]) -> list[str]:
    """Class names in the order of their indices: one a line, or of a .csv with `id,name`.

    Raises:
        ManifestError: the file is missing, empty or not UTF-8, a name comes twice, or ids do not
            count from 0.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ManifestError(path, "there is no such file")
    lines: dict[str, int] = {}
    for number, name in _labelled(path) if path.suffix == ".csv" else _lines(path):
        name = name.strip()
        if name and lines.setdefault(name, number) != number:
            raise ManifestError(path, f"class {name!r} is that of line {lines[name]}", number)
    if not lines:
        raise ManifestError(path, "holds no classes")
    return list(lines)


def _labelled(path: pathlib.Path) -> Iterator[tuple[int, str]]:
    """Lines and names of a table of classes."""
    for index, (number, row) in enumerate(_read_csv(path)):
        if row.get("id") != str(index) or "name" not in row:
            raise ManifestError(path, f"must be id {index} and a name, is {row}", number)
        yield number, row["name"]


def group_rows(path: pathlib.Path, records: Sequence[Record], column: str) -> list[list[int]]:
    """Indices of records whose values of `column` are equal, in the order of the manifest.

    Raises:
        ManifestError: a row lacks the column, or groups differ in size.
    """
    groups: dict[Any, list[int]] = {}
    for index, record in enumerate(records):
        if column not in record.extra:
            raise ManifestError(path, f"has no column {column!r} to group by", record.line)
        groups.setdefault(record.extra[column], []).append(index)
    sizes = {len(members): value for value, members in groups.items()}
    if len(sizes) > 1:
        found = ", ".join(f"{size} rows with {column}={v!r}" for size, v in sizes.items())
        raise ManifestError(path, f"groups must be of one size; there are {found}")
    return list(groups.values())


def _check_videos(path: pathlib.Path, records: Sequence[Record]) -> None:
    if broken := broken_shards(r.video for r in records):
        shown = "".join(f"\n  {shard}: {reason}" for shard, reason in [*broken.items()][:SHOWN])
        raise ManifestError(path, f"names shards that cannot be read, {len(broken)} in all:{shown}")
    absent = [r for r in records if not shard_of(r.video) and not os.path.isfile(r.video)]
    if absent:
        shown = "".join(f"\n  line {r.line}: {r.video}" for r in absent[:SHOWN])
        rest = len(absent) - SHOWN
        more = f"\n  and {rest} more" if rest > 0 else ""
        advice = "on_error='skip' would go on without them"
        reason = f"{len(absent)} of {len(records)} rows name no file ({advice}):{shown}{more}"
        raise ManifestError(path, reason)
