"""What the rows of a manifest say of their videos: captions and class indices."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from vlt.data.manifest import ManifestError, Record, texts


class Targets:
    """Captions and labels of records; either all rows have them or none.

    Attributes:
        captions: for every record the texts of each caption column, or None without captions.
        labels: int32 [records], indices into `classes`, or None without labels.
        classes: class names.
    """

    def __init__(
        self,
        manifest: pathlib.Path,
        records: Sequence[Record],
        columns: Sequence[str],
        classes: Sequence[str],
    ):
        """
        Args:
            columns: names of the columns with captions.
            classes: class names in their order; if empty, the labels that occur, sorted.

        Raises:
            ManifestError: a row lacks what others have, a caption is no text, a label no class.
        """
        self._manifest, self._records = manifest, records
        written = self._all_have("caption", [bool(r.captions) for r in records])
        self.captions = None
        if written or "caption" not in columns:
            self.captions = [[self._texts(record, c) for c in columns] for record in records]
        self.classes, self.labels = list(classes), None
        if self._all_have("label", [r.label is not None for r in records]):
            self.classes = self.classes or _sorted_labels(records)
            self.labels = self._indices()

    def _all_have(self, column: str, present: Sequence[bool]) -> bool:
        if any(present) and not all(present):
            line = self._records[present.index(False)].line
            raise ManifestError(self._manifest, f"has no `{column}`, as other rows have", line)
        return all(present)

    def _texts(self, record: Record, column: str) -> tuple[str, ...]:
        if column == "caption":
            return record.captions
        value: Any = record.extra.get(column)
        listed = value if isinstance(value, list) and value else [value]
        if not all(isinstance(text, str) and text.strip() for text in listed):
            reason = f"{column!r} must be text or a list of texts, as a column of captions, is "
            raise ManifestError(self._manifest, reason + repr(value), record.line)
        return texts(value)

    def _indices(self) -> np.ndarray:
        index = {name: i for i, name in enumerate(self.classes)}
        for record in self._records:
            if record.label not in index:
                shown = ", ".join(self.classes[:5])
                reason = f"label {record.label!r} is no class; the classes are {shown}, ..."
                raise ManifestError(self._manifest, reason, record.line)
        return np.array([index[str(record.label)] for record in self._records], np.int32)

    def choose(self, record: int, draw: float) -> str:
        """One caption: `draw` in [0, 1) chooses the column, what is left of it the text."""
        assert self.captions is not None
        columns = self.captions[record]
        column, rest = divmod(draw * len(columns), 1.0)
        chosen = columns[int(column)]
        return chosen[int(rest * len(chosen))]


def _sorted_labels(records: Sequence[Record]) -> list[str]:
    """The labels that occur, numbers in their order before words in theirs."""
    found = {r.label for r in records if r.label is not None}
    return sorted(found, key=lambda s: (0, int(s), s) if s.isdecimal() else (1, 0, s))
