"""Videos that could not be read, recorded on disk before anything depends on it."""

import json
import os
import pathlib
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

from vlt.data.manifests.manifest import Record
from vlt.data.video.errors import VideoError
from vlt.storage.files import append

TRAINING = "train"  # the stream that must see again what it saw
FEW = 100  # the error rate over fewer records than this is taken as if there were this many


class TooManyErrors(RuntimeError):
    """More videos fail than the configuration allows."""


class SkipLog:
    """The bad records of one data stream, kept in a file of JSON lines.

    A record that failed at one position of the stream is bad from there on, also after a resume: a
    decoder that ran out of time once might not do so again, and the resumed run would see different
    data from the run it continues. So a line is on disk before `add` returns.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        stream: str,
        records: Sequence[Record],
        max_error_rate: float,
    ):
        """Reads the entries that the file already has for `stream`.

        In an evaluation, which may be of another manifest than before, entries whose record does
        not match `records` are ignored.

        Raises:
            ValueError: an entry's record does not match those of training, or the file is not such
                a log.
        """
        self._path, self._stream = pathlib.Path(path), stream
        self._records, self._max_error_rate = records, max_error_rate
        self._bad_from: dict[int, int] = {}
        self._seen = np.zeros(len(records), bool)
        self._lock = threading.Lock()
        self._load()

    def _load(self) -> None:
        if not self._path.exists():
            return
        content = self._path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):  # killed while writing a line, so nothing acted on it
            os.truncate(self._path, whole)
        for number, line in enumerate(content[:whole].splitlines(), 1):
            entry = self._entry(number, line)
            if entry["stream"] != self._stream:
                continue
            record = entry["record"]
            if 0 <= record < len(self._records) and self._records[record].id == entry["id"]:
                self._remember(record, entry["position"])
            elif self._stream == TRAINING:
                raise ValueError(
                    f"{self._path}, line {number}: {entry['id']!r} is not record {record} of "
                    f"{self._stream}: the manifest has changed; use another workdir"
                )

    def _entry(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            entry = json.loads(line)
            kinds = {"stream": str, "record": int, "position": int, "id": str}
            if all(type(entry[key]) is kind for key, kind in kinds.items()):
                return entry
        except (ValueError, LookupError, TypeError, RecursionError):
            pass
        raise ValueError(
            f"{self._path}, line {number}: does not describe a skipped video: {line[:80]!r}; "
            "without the file all videos are tried again"
        )

    def _remember(self, record: int, position: int) -> None:
        self._bad_from[record] = min(position, self._bad_from.get(record, position))

    def is_bad(self, record: int, position: int) -> bool:
        """Whether the record counts as unreadable at this position of the stream."""
        start = self._bad_from.get(record)
        return start is not None and start <= position

    def see(self, records: Sequence[int]) -> None:
        """Counts records that the stream has reached, for the error rate."""
        self._seen[list(records)] = True

    @property
    def ids(self) -> list[str]:
        """Ids of the bad records, in the order of the manifest."""
        return [self._records[record].id for record in sorted(self._bad_from)]

    def add(self, record: int, position: int, error: VideoError) -> None:
        """Writes the failure to disk and logs it.

        Raises:
            TooManyErrors: the share of bad records among those seen is over the limit.
        """
        with self._lock:
            entry = {
                "stream": self._stream,
                "position": position,
                "record": record,
                "id": self._records[record].id,
                "video": error.path,
                "error": type(error).__name__,
                "reason": error.reason,
            }
            self._path.parent.mkdir(parents=True, exist_ok=True)
            append(self._path, json.dumps(entry) + "\n")
            self._remember(record, position)
            seen = int(self._seen.sum())
            bad = sum(bool(self._seen[record]) for record in self._bad_from)
        logging.warning("%s: skipping %s (%d bad so far)", self._stream, error, bad)
        of = max(seen, min(len(self._records), FEW))
        if bad > self._max_error_rate * of:
            raise TooManyErrors(
                f"{self._stream}: {bad} of {seen} videos could not be read, over "
                f"max_error_rate={self._max_error_rate}; all are listed in {self._path}; the last: "
                f"{error}"
            )
