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
from vlt.data.manifests.manifest import ManifestError, read_manifest
from vlt.data.manifests.rows import json_rows

Row = dict[str, Any]  # row of a manifest; `video` is a full path, `label` is text


def read_labelled(path: pathlib.Path) -> list[Row]:
    """Rows of a manifest, all of which have a label.

    Raises: ManifestError for a manifest that cannot be used, a row without a label, or a value
      that JSON cannot hold.
    """
    records = read_manifest(path, check_videos=False)
    unlabelled = next((record for record in records if record.label is None), None)
    if unlabelled is not None:
        raise ManifestError(path, "has no `label`", unlabelled.line)
    folder = os.path.realpath(path.parent)  # from which `..` leads where it does on disk
    return [
        row | {"video": os.path.normpath(os.path.join(folder, row["video"])), "label": record.label}
        for (_, row), record in zip(json_rows(path), records, strict=True)
    ]


def by_class(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by label, with labels in sorted order."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["label"], []).append(row)
    return {label: found[label] for label in sorted(found)}


def write_labelled(path: pathlib.Path, rows: Sequence[Row], classes: Sequence[str]) -> str:
    """Writes a manifest and, beside it, NAME_classes.txt; returns a line about both.

    Raises: AnnotationError if the path does not end in .jsonl.
    """
    if path.suffix != ".jsonl":
        raise AnnotationError(f"{path}: a manifest is written as a .jsonl file")
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.path.realpath(path.parent)
    placed = (row | {"video": os.path.relpath(row["video"], folder)} for row in rows)
    write_lines(path, (json.dumps(row, ensure_ascii=False) for row in placed))
    names = path.with_name(f"{path.stem}_classes.txt")
    write_lines(names, classes)
    videos = len({row["video"] for row in rows})
    return f"{path}: {videos:,} videos; {names.name}: {len(classes):,} classes"


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
