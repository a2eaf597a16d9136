"""Manifests: which videos a data set has and what is said about them.

JSON Lines (.jsonl), CSV (.csv) or Parquet (.parquet) with a column `video` (path, relative to the
manifest) and one of `caption` (text or list of texts), `label`, `question` with `answer` (text or
list of texts), or `conversations` (vlt/data/manifests/dialogues.py). `id` names a row, `sha256` is
the file's checksum, verified whenever the file is read; further columns are kept. A path may also
name the record of a shard (vlt/data/video/shards.py).

White space around texts, labels and column names is stripped; a list may be written out as text, as
pandas does; paths stay as they are written.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vlt.data.manifests.dialogues import checked_dialogue
from vlt.data.manifests.rows import OWN_COLUMNS, READERS, ManifestError, csv_rows, manifest_errors
from vlt.data.text.prompts import Turn
from vlt.data.text.text_files import read_lines
from vlt.data.text.texts import (
    checked_label,
    checked_text,
    checked_texts,
    look_alikes,
    printable,
    shown,
    trimmed,
)
from vlt.data.video.shards import broken_shards, shard_of

TARGETS = "`caption`, `label`, `question` with `answer`, or `conversations`"
SHOWN = 5  # examples in a message


@dataclasses.dataclass(frozen=True)
class Record:
    """One row of a manifest.

    Attributes:
        id: the row's `id`, or else its `video` as written there.
        video: path of the file, the manifest's folder included.
        captions: none, one or several.
        turns: those of a dialogue about the video; none if the row has no `conversations`.
        extra: all other columns.
        line: line of the file, or row of a Parquet file, both from 1.
        sha256: checksum that the file must have, in hexadecimal; '' if the row gives none.
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
    turns: tuple[Turn, ...] = ()


def read_manifest(path: str | os.PathLike[str], check_videos: bool = True) -> list[Record]:
    """Reads a manifest.

    Args:
        path: a .jsonl, .csv or .parquet file.
        check_videos: whether every video file must exist now.

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
        record = record_of(path, line, row)
        earlier = lines_of_ids.setdefault(record.id, line) if "id" in row else line
        if earlier != line:
            raise ManifestError(path, f"id {record.id!r} is that of line {earlier}", line)
        records.append(record)
    if not records:
        raise ManifestError(path, "holds no rows")
    _check_labels(path, records)
    _check_sums(path, records)
    if check_videos:
        _check_videos(path, records)
    return records


def record_of(path: pathlib.Path, line: int, row: dict[str, Any]) -> Record:
    """Checks a row of a manifest and makes its record. Raises: ManifestError."""

    def fail(reason: str) -> ManifestError:
        return ManifestError(path, reason, line)

    columns = ", ".join(row) or "none"
    if "video" not in row:
        raise fail(f"has no `video`; its columns are: {columns}")
    single = {"caption", "label", "conversations"} & row.keys()
    if not (single or {"question", "answer"} <= row.keys()):
        raise fail(f"has none of {TARGETS}; its columns are: {columns}")
    own: dict[str, Any] = {}
    for column in (c for c in OWN_COLUMNS if c in row):
        try:
            own[column] = CHECKS[column](row[column])
        except ValueError as error:
            raise fail(f"`{column}` {error}") from None
    if "sha256" in row and shard_of(row["video"]):
        raise fail("`sha256` is of files; the records of shards have checksums of their own")
    return Record(
        id=own.get("id", own["video"]),
        video=str(path.parent / own["video"]),
        captions=own.get("caption", ()),
        label=own.get("label"),
        question=own.get("question"),
        answers=own.get("answer", ()),
        extra={k: v for k, v in row.items() if k not in OWN_COLUMNS},
        line=line,
        sha256=own.get("sha256", ""),
        turns=own.get("conversations", ()),
    )


def _checked_video(value: Any) -> str:
    """The path, unchanged: file names may begin or end with spaces."""
    if re.match(r"[a-z][a-z0-9+.-]*://", checked_text(value), re.IGNORECASE):
        raise ValueError(f"must be the path of a file, not an address: {value!r:.80}")
    return value


def _checked_id(value: Any) -> str:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole and not isinstance(value, str):
        raise ValueError(f"must be text or a whole number and not empty, got {shown(value)}")
    return str(value) if whole else checked_text(value)


CHECKS = {
    "id": _checked_id,
    "video": _checked_video,
    "caption": checked_texts,
    "label": checked_label,
    "question": checked_text,
    "answer": checked_texts,
    "sha256": checked_text,
    "conversations": checked_dialogue,
}


def _check_labels(path: pathlib.Path, records: Sequence[Record]) -> None:
    """Raises ManifestError for labels that only look alike, or for a video with two labels."""
    lines: dict[str, int] = {}
    of_videos: dict[str, Record] = {}
    for record in records:
        if record.label is None:
            continue
        lines.setdefault(record.label, record.line)
        first = of_videos.setdefault(os.path.normpath(record.video), record)
        if first.label != record.label:
            reason = f"label {record.label!r} of a video that has {first.label!r} in line "
            raise ManifestError(path, f"{reason}{first.line}", record.line)
    _refuse_look_alikes(path, lines)


def _check_sums(path: pathlib.Path, records: Sequence[Record]) -> None:
    """Raises ManifestError for a video with two checksums."""
    of_videos: dict[str, Record] = {}
    for record in (record for record in records if record.sha256):
        first = of_videos.setdefault(os.path.normpath(record.video), record)
        if first.sha256.lower() != record.sha256.lower():
            reason = f"`sha256` of a video that has another one in line {first.line}"
            raise ManifestError(path, reason, record.line)


def _refuse_look_alikes(path: pathlib.Path, lines: Mapping[str, int]) -> None:
    if pair := look_alikes(lines):
        first, second = pair
        reason = (
            f"{second!a} and {first!a} of line {lines[first]} differ in case, spaces or the form "
            "of letters alone; write one of them everywhere"
        )
        raise ManifestError(path, reason, lines[second])


def read_classes(path: str | os.PathLike[str]) -> list[str]:
    """Class names in the order of their indices: one per line, or from a .csv with `id,name`.

    Raises:
        ManifestError: the file is missing, empty or not UTF-8; a name occurs twice, even if case or
            spaces differ, or is invalid (`checked_label`); or ids do not count from 0.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ManifestError(path, "there is no such file")
    lines: dict[str, int] = {}
    with manifest_errors():
        for number, text in _labelled(path) if path.suffix == ".csv" else read_lines(path):
            if not trimmed(text):
                continue
            try:
                name = checked_label(trimmed(text))
            except ValueError as error:
                raise ManifestError(path, f"a class {error}", number) from None
            if lines.setdefault(name, number) != number:
                raise ManifestError(path, f"class {name!r} is that of line {lines[name]}", number)
    if not lines:
        raise ManifestError(path, "holds no classes")
    _refuse_look_alikes(path, lines)
    return list(lines)


def _labelled(path: pathlib.Path) -> Iterator[tuple[int, str]]:
    """Line numbers and names of a table of classes."""
    for index, (number, row) in enumerate(csv_rows(path)):
        if row.get("id") != str(index) or not trimmed(row.get("name", "")):
            raise ManifestError(path, f"must be id {index} and a name, got {row}", number)
        yield number, row["name"]


def group_rows(path: pathlib.Path, records: Sequence[Record], column: str) -> list[list[int]]:
    """Groups of indices of records with equal values of `column`, in the order of the manifest.

    Raises:
        ManifestError: a row lacks the column or has several values there, or groups differ in size.
    """
    groups: dict[Any, list[int]] = {}
    for index, record in enumerate(records):
        if column not in record.extra:
            raise ManifestError(path, f"has no column {column!r} to group by", record.line)
        value = record.extra[column]
        if isinstance(value, (list, dict)) or value != value:
            reason = f"`{column}`, by which rows are grouped, must be one value, got {shown(value)}"
            raise ManifestError(path, reason, record.line)
        groups.setdefault(value, []).append(index)
    sizes = {len(members): value for value, members in groups.items()}
    if len(sizes) > 1:
        found = ", ".join(f"{size} rows with {column}={v!r}" for size, v in sizes.items())
        raise ManifestError(path, f"groups must be of one size; there are {found}")
    return list(groups.values())


def _check_videos(path: pathlib.Path, records: Sequence[Record]) -> None:
    if broken := broken_shards(r.video for r in records):
        named = "".join(f"\n  {shard}: {reason}" for shard, reason in [*broken.items()][:SHOWN])
        raise ManifestError(path, f"names shards that cannot be read, {len(broken)} in all:{named}")
    absent = [r for r in records if not shard_of(r.video) and not os.path.isfile(r.video)]
    if absent:
        named = "".join(f"\n  line {r.line}: {_path(r.video)}" for r in absent[:SHOWN])
        rest = len(absent) - SHOWN
        more = f"\n  and {rest} more" if rest > 0 else ""
        advice = "on_error='skip' would go on without them"
        reason = f"{len(absent)} of {len(records)} rows name no file ({advice}):{named}{more}"
        raise ManifestError(path, reason)


def _path(video: str) -> str:
    """A path for a message, quoted if white space around it would not be seen."""
    return printable(video) if video == trimmed(video) else repr(video)
