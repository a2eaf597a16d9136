"""Reads manifests with labels and writes parts of them: for people with their own data."""

import argparse
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from data_pipelines.annotation_files import AnnotationError
from data_pipelines.manifests import write_lines
from vlt.command_line import why
from vlt.data.manifests.manifest import READERS, ManifestError, read_manifest
from vlt.data.text.texts import shown

Row = dict[str, Any]  # row of a manifest; `video` is a full path, `label` is text


def read_labelled(path: pathlib.Path) -> list[Row]:
    """Rows of a manifest, all of which have a label.

    Raises: ManifestError for a manifest that cannot be used, or a row without a label.
    """
    records = read_manifest(path, check_videos=False)
    unlabelled = next((record for record in records if record.label is None), None)
    if unlabelled is not None:
        raise ManifestError(path, "has no `label`", unlabelled.line)
    rows = (row for _, row in READERS[path.suffix](path))
    return [
        row | {"video": os.path.abspath(record.video), "label": record.label}
        for row, record in zip(rows, records, strict=True)
    ]


def by_class(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by label, with labels in sorted order."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["label"], []).append(row)
    return {label: found[label] for label in sorted(found)}


def write_labelled(path: pathlib.Path, rows: Sequence[Row], classes: Sequence[str]) -> str:
    """Writes a manifest and, beside it, NAME_classes.txt; returns a line about both.

    Raises: AnnotationError if the path does not end in .jsonl, or JSON cannot hold a value.
    """
    if path.suffix != ".jsonl":
        raise AnnotationError(f"{path}: a manifest is written as a .jsonl file")
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.path.realpath(path.parent)
    write_lines(path, (_as_json(path, row, folder) for row in rows))
    names = path.with_name(f"{path.stem}_classes.txt")
    write_lines(names, classes)
    return f"{path}: {len(rows):,} videos; {names.name}: {len(classes):,} classes"


def _as_json(path: pathlib.Path, row: Row, folder: str) -> str:
    row = row | {"video": os.path.relpath(row["video"], folder)}
    for column, value in row.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            reason = f"`{column}` of {row['video']} is {shown(value)}, which JSON cannot hold"
            raise AnnotationError(f"{path}: {reason}") from None
    return json.dumps(row, ensure_ascii=False)


def refuse_overlap(
    read: Sequence[str | None], written: Sequence[str | os.PathLike[str] | None]
) -> None:
    """Raises AnnotationError for a file that would be read and written, or written twice."""
    paths = [os.path.realpath(path) for path in (*read, *written) if path]
    twice = [path for path in paths if paths.count(path) > 1]
    if twice:
        raise AnnotationError(f"{twice[0]}: would be written over")


def run(parser: argparse.ArgumentParser, work: Callable[..., list[str]]) -> None:
    """Runs a command on its arguments, and prints its lines or what is wrong."""
    try:
        print("\n".join(work(**vars(parser.parse_args()))))
    except (AnnotationError, ManifestError, OSError) as error:
        parser.error(why(error))
