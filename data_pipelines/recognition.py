"""What the action recognition data sets share: splits of labels, and their lists of classes.

The public lists of X-CLIP, ViFi-CLIP and OST are one folder per data set, one for its base-to-novel
lists and one of tables that name classes; a manifest is made from each list that is given.
"""

import collections
import dataclasses
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from data_pipelines.annotation_files import AnnotationError
from data_pipelines.label_files import read_class_names, read_labels
from data_pipelines.manifests import (
    SHOWN,
    Files,
    Split,
    Texts,
    chosen_files,
    file_names,
    given_files,
    write_lines,
    write_manifests,
)
from vlt.evaluation.recognition_protocols import (
    BASE_SHOTS,
    RECOGNITION_PROTOCOLS,
    SAMPLINGS,
    SHOTS,
)


@dataclasses.dataclass(frozen=True)
class Table:
    """A file that names classes.

    Attributes:
      file: its name.
      protocol: protocol that the classes belong to.
      written: name of the list of classes that is written beside the manifests.
    """

    file: str
    protocol: str
    written: str = "classes.txt"

    def read(self, path: pathlib.Path) -> list[str]:
        """Names of the classes.

        Raises: AnnotationError for a number other than the protocol's, or a file of another form.
        """
        names, expected = read_class_names(path), RECOGNITION_PROTOCOLS[self.protocol].classes
        if len(names) != expected:
            raise AnnotationError(f"{path}: {len(names)} classes instead of {expected}")
        return names


@dataclasses.dataclass(frozen=True)
class LabelSplit(Split):
    """A split whose rows have a label, the name of a class; `each` counts the videos of a class."""

    table: Table = Table("", "")

    def read(
        self, files: Files, given: Mapping[str, pathlib.Path], allow_subset: bool
    ) -> tuple[Texts, list[str]]:
        """The label of each video, and which classes have no video."""
        path, names = given[files.texts], self.table.read(given[files.classes])
        labels = read_labels(path, names)
        found = set(labels.values())
        empty = [name for name in names if name not in found]
        problems = []
        if empty and not allow_subset:
            problems.append(f"no video of {_named(empty)} of {len(names)} classes in {path}")
        return {video: [label] for video, label in labels.items()}, problems

    def amount(self, texts: Texts) -> str:
        """The number of classes that occur."""
        return f"{len({label for (label,) in texts.values()}):,} classes"

    def counts(self, texts: Texts, files: Files) -> list[tuple[int, int | None, str]]:
        """Counts of all videos and of those per class; classes of equal size share one count."""
        own, equal = collections.defaultdict(list), collections.defaultdict(list)
        for video, (label,) in texts.items():
            own[label].append(video)
        for label, videos in own.items():
            equal[len(videos)].append(label)
        each = [
            (size, self.each, f"videos of {_named(labels)} classes ({_some(own[labels[0]])})")
            for size, labels in equal.items()
        ]
        return [(len(texts), self.videos, "videos"), *each]

    def columns(self, video: str, texts: Sequence[Any]) -> Iterator[dict[str, Any]]:
        """A video's row, without its path."""
        yield {"id": video, "label": texts[0]}


def _named(classes: Sequence[str]) -> str:
    return f"{len(classes)} ({_some([repr(name) for name in classes])})"


def _some(listed: Sequence[str]) -> str:
    return ", ".join(listed[:SHOWN]) + (", ..." if len(listed) > SHOWN else "")


def label_split(
    name: str, file: str, table: Table, videos: int | None = None, each: int | None = None
) -> LabelSplit:
    """A split made from one list and the table of its classes."""
    files = (Files(file, classes=table.file),)
    return LabelSplit(name, files, "label", videos, each=each, table=table)


def protocol_split(name: str, file: str, table: Table, protocol: str) -> LabelSplit:
    """The test set of a protocol."""
    return label_split(name, file, table, RECOGNITION_PROTOCOLS[protocol].videos)


def few_shot_splits(table: Table) -> list[LabelSplit]:
    """Training sets of K videos of every class."""
    return [
        label_split(f"few_shot_{shots}", f"train1_few_shot_{shots}.txt", table, each=shots)
        for shots in SHOTS
    ]


def base_to_novel_splits(data: str, prefix: str) -> list[LabelSplit]:
    """Three samplings of the base classes for training, and both test sets.

    data: the data set's name in protocols. prefix: prefix of the tables' names.
    """
    base, novel = (
        Table(f"{prefix}_{part}_labels.csv", f"{data}_{part}", f"{part}_classes.txt")
        for part in ("base", "novel")
    )
    return [
        *(
            label_split(f"base_train_s{n}", f"fs_base_s{n}_train.txt", base, each=BASE_SHOTS)
            for n in SAMPLINGS
        ),
        protocol_split("base_val", "base_val.txt", base, f"{data}_base"),
        protocol_split("novel_val", "novel_val.txt", novel, f"{data}_novel"),
    ]


def write_manifests_and_classes(
    splits: Sequence[LabelSplit],
    annotations: Iterable[str | os.PathLike[str]],
    videos: str | os.PathLike[str],
    out: str | os.PathLike[str],
    **options: Any,
) -> list[str]:
    """`write_manifests`, and the lists of classes beside the manifests.

    Raises:
      AnnotationError: as in `write_manifests`, or a table has the wrong number of classes.
    """
    given = given_files(annotations, file_names(splits).__contains__)
    lines = write_manifests(splits, given.values(), videos, out, **options)
    tables = dict.fromkeys(split.table for split in splits if chosen_files(split, given))
    for table in tables:
        names, path = table.read(given[table.file]), pathlib.Path(out) / table.written
        write_lines(path, names)
        lines.append(f"{path}: {len(names)} classes (from {table.file})")
    return lines
