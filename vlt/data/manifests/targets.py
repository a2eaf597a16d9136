"""What the rows of a manifest say about their videos: captions, class indices, questions."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from absl import logging

from vlt.data.manifests.manifest import (
    SHOWN,
    ManifestError,
    Record,
    read_classes,
    read_manifest,
)
from vlt.data.manifests.packed import PackedRecords, WhenAsked
from vlt.data.manifests.resources import resolve
from vlt.data.text.captions import Cleaning
from vlt.data.text.texts import checked_texts, look

T = TypeVar("T")

AS_WRITTEN = Cleaning()
LONGEST_NUMBER = 4000  # digits; int() takes 4300


class Targets:
    """Captions, labels and questions of records; each is present in all rows or in none.

    Attributes:
        captions: for every record the texts of each caption column, cleaned and with the prompt in
            front, or None without captions.
        labels: int32 [records], indices into `classes`, or None without labels.
        classes: class names.
        questions: for every record its question, cleaned, or None without questions.
        spoken: whether records have dialogues.
        textless: records of whose captions, or of whose question, clean-up left nothing.
    """

    def __init__(
        self,
        manifest: pathlib.Path,
        records: Sequence[Record],
        columns: Sequence[str],
        classes: Sequence[str],
        cleaning: Cleaning = AS_WRITTEN,
        prefix: str = "",
        drop_empty: bool = False,
    ):
        """
        Args:
            columns: names of the columns with captions.
            classes: class names in their order; if empty, the labels that occur, sorted.
            cleaning: clean-up of captions and questions; answers stay as they are.
            prefix: the prompt, put before every caption.
            drop_empty: whether texts that are empty after clean-up are left out, with a warning.

        Raises:
            ManifestError: a row lacks what others have, a caption is not text, a label not a class,
                or texts are empty after clean-up and not to be dropped.
        """
        self._manifest, self._records = manifest, records
        self._cleaning, self._prefix = cleaning, prefix
        self.textless: set[int] = set()
        self._empty: list[tuple[int, str]] = []  # record, and its text as written
        self._packed = isinstance(records, PackedRecords)
        written = self._all_have("caption", lambda record: bool(record.captions))
        self.captions: Sequence[list[list[str]]] | None = None
        if written or "caption" not in columns:
            self.captions = self._each(lambda index: self._captions(index, columns))
        self.classes, self.labels = list(classes), None
        if self._all_have("label", lambda record: record.label is not None):
            self.classes = self.classes or _sorted_labels(records)
            self.labels = self._indices()
        self.questions: Sequence[str] | None = None
        if self._all_have("question", lambda record: record.question is not None):
            self.questions = self._each(self._question)
        self.spoken = self._all_have("conversations", lambda record: bool(record.turns))
        if self._empty and not self._packed:
            self._tell_empty(drop_empty)

    def _each(self, function: Callable[[int], T]) -> Sequence[T]:
        """The function's value for every record; for packed ones, computed when asked for."""
        count = len(self._records)
        return WhenAsked(count, function) if self._packed else [function(i) for i in range(count)]

    def is_textless(self, record: int) -> bool:
        """Whether nothing is left of a record's captions, or of its question."""
        for listed in (self.captions, self.questions):
            if self._packed and listed is not None:
                listed[record]
        return record in self.textless

    def _all_have(self, column: str, has: Callable[[Record], bool]) -> bool:
        if self._packed:  # a row without it is reported when it is read
            return has(self._records[0])
        present = [has(record) for record in self._records]
        if any(present) and not all(present):
            line = self._records[present.index(False)].line
            raise ManifestError(self._manifest, f"has no `{column}`, as other rows have", line)
        return all(present)

    def _captions(self, index: int, columns: Sequence[str]) -> list[list[str]]:
        """Cleaned texts of each column, with the prompt; columns with no texts left are omitted."""
        every = [self._texts(self._records[index], column) for column in columns]
        cleaned = [[self._clean(index, text) for text in listed] for listed in every]
        left = [[self._prefix + text for text in listed if text] for listed in cleaned]
        return [listed for listed in left if listed] or self._none_left(index, [])

    def _question(self, index: int) -> str:
        cleaned = self._clean(index, str(self._records[index].question))
        return cleaned or self._none_left(index, "")

    def _clean(self, index: int, text: str) -> str:
        cleaned = self._cleaning(text)
        if not cleaned.strip():
            self._empty.append((index, text))
            return ""
        return cleaned

    def _none_left(self, index: int, nothing: Any) -> Any:
        self.textless.add(index)
        return nothing

    def _tell_empty(self, drop: bool) -> None:
        rows = dict(self._empty)
        shown = "".join(
            f"\n  line {self._records[index].line}: {text!r}"
            for index, text in list(rows.items())[:SHOWN]
        )
        more = f"\n  and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
        told = (
            f"{len(self._empty)} texts of {len(rows)} of {len(self._records)} rows are empty after "
            f"clean-up by {self._cleaning.rule!r}"
        )
        if not drop:
            advice = "on_error='skip' would go on without them"
            raise ManifestError(self._manifest, f"{told} ({advice}):{shown}{more}")
        logging.warning("%s: left out: %s:%s%s", self._manifest, told, shown, more)

    def _texts(self, record: Record, column: str) -> tuple[str, ...]:
        if column == "caption":
            return record.captions
        value: Any = record.extra.get(column)
        if not isinstance(value, (str, list)):
            reason = f"{column!r} must be text or a list of texts, as a column of captions, got "
            raise ManifestError(self._manifest, f"{reason}{value!r:.80}", record.line)
        try:
            return checked_texts(value)
        except ValueError as error:
            reason = f"{column!r}, a column of captions, {error}"
            raise ManifestError(self._manifest, reason, record.line) from None

    def _indices(self) -> np.ndarray:
        index = {name: i for i, name in enumerate(self.classes)}
        for record in self._records:
            if record.label not in index:
                reason = (
                    f"label {record.label!r} is not a class; {self._nearest(str(record.label))}"
                )
                raise ManifestError(self._manifest, reason, record.line)
        return np.array([index[str(record.label)] for record in self._records], np.int32)

    def _nearest(self, label: str) -> str:
        alike = [name for name in self.classes if look(name) == look(label)]
        if alike:
            return f"{alike[0]!a} differs in case, spaces or the form of letters alone"
        return f"the classes are {', '.join(self.classes[:SHOWN])}, ..."

    def texts(self) -> dict[str, Callable[[int, float], Any]]:
        """Texts of a batch: name -> (record, draw in [0, 1)) -> the text that `draw` chooses; for
        `turns`, the dialogue."""
        found: dict[str, Callable[[int, float], Any]] = {}
        if self.captions is not None:
            found["text"] = self._caption
        if self.questions is not None:
            questions = self.questions
            found["question"] = lambda record, draw: questions[record]
            found["answer"] = lambda record, draw: _choose(self._records[record].answers, draw)
        if self.spoken:
            found["turns"] = lambda record, draw: self._records[record].turns
        return found

    def _caption(self, record: int, draw: float) -> str:
        """`draw` chooses the column, and its remainder the text."""
        assert self.captions is not None
        columns = self.captions[record]
        column, rest = divmod(draw * len(columns), 1.0)
        return _choose(columns[int(column)], rest) if columns else ""


def _choose(listed: Sequence[str], draw: float) -> str:
    return listed[int(draw * len(listed))]


def class_names(section: Mapping[str, Any]) -> list[str]:
    """Class names of a data section in the order of their indices: those of its file `classes`, or
    else the labels that occur in its manifest.

    Raises:
        ManifestError: the file or the manifest cannot be used, or has no labels.
    """
    if section.get("classes"):
        return read_classes(resolve(section["classes"]))
    manifest = resolve(section["manifest"])
    names = _sorted_labels(read_manifest(manifest, check_videos=False))
    if not names:
        raise ManifestError(manifest, "has no column `label`, which recognition needs")
    return names


def _sorted_labels(records: Sequence[Record]) -> list[str]:
    """The labels that occur: numbers in numeric order, then words in string order."""
    found = {r.label for r in records if r.label is not None}
    return sorted(found, key=lambda s: (0, int(s), s) if _is_number(s) else (1, 0, s))


def _is_number(label: str) -> bool:
    return label.isdecimal() and len(label) < LONGEST_NUMBER
