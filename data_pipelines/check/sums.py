"""A manifest with the column `sha256`, in its own format; nothing else in it changes."""

import csv
import json
import pathlib
from collections.abc import Callable, Sequence

from vlt.data.manifests.manifest import READERS, ManifestError
from vlt.storage.files import new_file

COLUMN = "sha256"


def write_sums(manifest: pathlib.Path, out: pathlib.Path, sums: Sequence[str]) -> None:
    """Writes the manifest's rows with sums, entirely or not at all; '' leaves a row as it is."""
    WRITERS[manifest.suffix](manifest, out, sums)


def check_out(manifest: pathlib.Path, out: pathlib.Path) -> None:
    """Raises ManifestError unless `out` has the suffix and the folder of the manifest."""
    if out.suffix != manifest.suffix:
        raise ManifestError(out, f"must end in {manifest.suffix}, as {manifest.name} does")
    if out.resolve().parent != manifest.resolve().parent:
        reason = f"must be in the folder of {manifest}, to which the paths in it are relative"
        raise ManifestError(out, reason)


def _write_json_lines(manifest: pathlib.Path, out: pathlib.Path, sums: Sequence[str]) -> None:
    rows = (row for _, row in READERS[".jsonl"](manifest))
    with new_file(out) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        for row, found in zip(rows, sums, strict=True):
            row = row | {COLUMN: found} if found else row
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _write_csv(manifest: pathlib.Path, out: pathlib.Path, sums: Sequence[str]) -> None:
    # Without READERS, which drop empty fields.
    with manifest.open(encoding="utf-8-sig", newline="") as file:
        ends = "\r\n" if file.readline().endswith("\r\n") else "\n"
        file.seek(0)
        header, *rows = [row for row in csv.reader(file, strict=True, skipinitialspace=True) if row]
    place = header.index(COLUMN) if COLUMN in header else len(header)
    with new_file(out) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator=ends)
        writer.writerow([*header[:place], COLUMN, *header[place + 1 :]])
        for row, found in zip(rows, sums, strict=True):
            kept = "".join(row[place : place + 1])
            writer.writerow([*row[:place], found or kept, *row[place + 1 :]])


def _write_parquet(manifest: pathlib.Path, out: pathlib.Path, sums: Sequence[str]) -> None:
    import pyarrow
    from pyarrow import parquet

    table = parquet.read_table(manifest)
    held = COLUMN in table.column_names
    kept = table.column(COLUMN).to_pylist() if held else [None] * len(table)
    values = [found or old for found, old in zip(sums, kept, strict=True)]
    column = pyarrow.array(values, pyarrow.string())
    if held:
        table = table.set_column(table.column_names.index(COLUMN), COLUMN, column)
    else:
        table = table.append_column(COLUMN, column)
    with new_file(out) as unfinished:
        parquet.write_table(table, unfinished)


WRITERS: dict[str, Callable[[pathlib.Path, pathlib.Path, Sequence[str]], None]] = {
    ".jsonl": _write_json_lines,
    ".csv": _write_csv,
    ".parquet": _write_parquet,
}
