"""Packs a manifest of very many rows into one file that opens at once, whatever its size.

    python -m data_pipelines.pack data/train.parquet

writes data/train.array_record, with the same rows in the same order, which any config reads like
the manifest. Each process keeps all rows of a manifest in memory, but only the rows of this file
that it is reading.
"""

import argparse
import sys
from pathlib import Path

from vlt.command_line import why
from vlt.data.manifests.manifest import ManifestError, record_of
from vlt.data.manifests.packed import OPTIONS, SUFFIX, packed_row
from vlt.data.manifests.rows import READERS, json_rows
from vlt.storage.files import new_file

ROWS_TOLD = 1_000_000


def pack(manifest: Path) -> tuple[Path, int]:
    """Writes the file beside the manifest; returns its path and number of rows.

    Raises:
        ManifestError: a row is wrong, has a label, or a value that JSON cannot hold.
        FileExistsError: the file exists already.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    out, count = manifest.with_suffix(SUFFIX), 0
    if out.exists():
        raise FileExistsError(f"{out} exists; remove it first")
    if manifest.suffix not in READERS or not manifest.is_file():
        raise ManifestError(manifest, f"a file that ends in one of {', '.join(READERS)} is needed")
    with new_file(out) as path:
        writer = ArrayRecordWriter(str(path), OPTIONS)
        for line, row in json_rows(manifest):
            if record_of(manifest, line, row).label is not None:
                raise ManifestError(manifest, "has `label`; such rows cannot be packed", line)
            writer.write(packed_row(row))
            count += 1
            if count % ROWS_TOLD == 0:
                print(f"{count:,} rows", file=sys.stderr)
        writer.close()
    return out, count


def main(argv: list[str] | None = None) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.pack",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("manifest", type=Path, help=".jsonl, .csv or .parquet, without labels")
    options = parser.parse_args(argv)
    try:
        out, count = pack(options.manifest)
    except (ManifestError, OSError) as error:
        print(f"error: {why(error)}", file=sys.stderr)
        return 1
    print(f"{out}: {count:,} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
