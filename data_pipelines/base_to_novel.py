"""Splits a manifest with labels into manifests of its frequent and its rare classes.

    python -m data_pipelines.base_to_novel train.jsonl OUT [--val val.jsonl]

The more frequent half of the classes are base, the others novel (of an odd number, one more is
base); equally frequent ones are ordered by name. Writes base.jsonl and novel.jsonl and, with --val,
base_val.jsonl and novel_val.jsonl of the same classes, each with its list of classes. For training,
apply data_pipelines.few_shot to base.jsonl.
"""

import argparse
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
from vlt.data.manifests.manifest import SHOWN


def halves(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Classes of `base` and of `novel`, the most frequent first.

    Raises: AnnotationError for fewer than two classes.
    """
    own = by_class(rows)
    if len(own) < 2:
        raise AnnotationError(f"base and novel take two classes; there is {', '.join(own)}")
    ordered = sorted(own, key=lambda label: -len(own[label]))
    base = (len(ordered) + 1) // 2
    return {"base": ordered[:base], "novel": ordered[base:]}


def write_halves(manifest: str, out: str, val: str | None = None) -> list[str]:
    """Writes the manifests; returns a line about each.

    Raises: AnnotationError for fewer than two classes, or unknown ones in `val`; ManifestError.
    """
    given = {"": manifest} | ({"_val": val} if val else {})
    paths = {
        (part, half): pathlib.Path(out) / f"{half}{part}.jsonl"
        for part in given
        for half in ("base", "novel")
    }
    refuse_overlap(list(given.values()), list(paths.values()))
    rows = {part: read_labelled(pathlib.Path(path)) for part, path in given.items()}
    classes = halves(rows[""])
    known = {label for half in classes.values() for label in half}
    strange = [label for label in by_class(rows.get("_val", ())) if label not in known]
    if strange:
        shown = ", ".join(map(repr, strange[:SHOWN]))
        raise AnnotationError(f"{val}: {len(strange)} classes that {manifest} has not: {shown}")
    return [
        write_labelled(
            path, [row for row in rows[part] if row["label"] in classes[half]], classes[half]
        )
        for (part, half), path in paths.items()
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest", help="with labels; its classes are counted")
    parser.add_argument("out", help="folder for the manifests")
    parser.add_argument("--val", help="manifest that is parted by the same classes")
    run(parser, write_halves)


if __name__ == "__main__":
    main()
