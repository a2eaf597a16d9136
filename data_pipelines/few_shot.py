"""Draws a few videos of each class from a manifest with labels.

    python -m data_pipelines.few_shot train.jsonl few.jsonl --shots 16 --seed 1 [--rest val.jsonl]

The draw depends only on the seed, the labels and the names of the videos, so more shots add to the
same videos. `--rest` names a manifest for all other rows, for example to evaluate on.
"""

import argparse
import hashlib
import os
import pathlib
from collections.abc import Sequence

from data_pipelines.annotation_files import AnnotationError
from data_pipelines.labelled import (
    Row,
    by_class,
    read_labelled,
    refuse_overlap,
    run,
    write_labelled,
)


def draw(rows: Sequence[Row], shots: int, seed: int) -> list[Row]:
    """Draws `shots` videos of each class; returns all their rows, in the order of `rows`.

    Raises: AnnotationError for a class that has fewer.
    """
    drawn = set[str]()
    for label, own in by_class(rows).items():
        firsts: dict[str, Row] = {}
        for row in own:
            firsts.setdefault(row["video"], row)
        if len(firsts) < shots:
            raise AnnotationError(
                f"class {label!r} has {len(firsts)} videos, {shots} are asked for"
            )
        drawn |= set(sorted(firsts, key=lambda video: _lot(firsts[video], seed))[:shots])
    return [row for row in rows if row["video"] in drawn]


def _lot(row: Row, seed: int) -> bytes:
    """A random number that depends only on the seed, the label, and the video's id or name."""
    name = row.get("id", os.path.basename(row["video"]))
    return hashlib.sha256(f"{seed}/{row['label']}/{name}".encode()).digest()


def write_few(manifest: str, out: str, shots: int, seed: int, rest: str | None = None) -> list[str]:
    """Writes OUT, and the other rows as `rest`; returns a line about each.

    Raises: AnnotationError for a class with fewer videos, no shots, or two equal files;
      ManifestError.
    """
    if shots < 1:
        raise AnnotationError(f"--shots must be >= 1, got {shots}")
    refuse_overlap([manifest], [out, rest])
    rows = read_labelled(pathlib.Path(manifest))
    few, classes = draw(rows, shots, seed), list(by_class(rows))
    lines = [write_labelled(pathlib.Path(out), few, classes)]
    if rest:
        kept = {row["video"] for row in few}
        others = [row for row in rows if row["video"] not in kept]
        lines.append(write_labelled(pathlib.Path(rest), others, classes))
    return lines


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest", help="with labels")
    parser.add_argument("out", help="manifest to write, .jsonl")
    parser.add_argument("--shots", type=int, required=True, help="videos of each class")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--rest", help="manifest to write of the rows that are not drawn")
    run(parser, write_few)


if __name__ == "__main__":
    main()
