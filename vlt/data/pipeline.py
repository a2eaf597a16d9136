"""From a manifest to batches: shuffle, decode, sample, transform, tokenize, batch.

Decoding happens in the pool's worker processes; this process orders the work and keeps all state.
Everything random comes from (seed, position in the stream), so a stream's state is its position.
"""

import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import grain
import numpy as np

from vlt.data.clips import ClipRequest
from vlt.data.manifest import ManifestError, Record, read_manifest
from vlt.data.reading import PADDING, POLICIES, Example, Reader
from vlt.data.skips import SkipLog
from vlt.data.stream import Batch, Stream
from vlt.data.tokenize import Tokenizer

Place = Callable[[Batch], Any]


class Pool(Protocol):
    """Reads clips, from several threads at once (vlt.data.clips.DecoderPool)."""

    workers: int

    def read(self, request: ClipRequest) -> np.ndarray: ...


def _on_host(batch: Batch) -> Batch:
    return batch


class VideoData:
    """The videos of one manifest, to train on or to evaluate on.

    Attributes:
        records: the rows; `ids` in batches are indices into them, -1 is padding.
        classes: class names; `label` in batches are indices into them.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        tokenizer: Tokenizer,
        pool: Pool,
        *,
        name: str,
        workdir: str | os.PathLike[str],
        seed: int = 0,
        classes: Sequence[str] = (),
        process_index: int = 0,
        process_count: int = 1,
    ):
        """
        Args:
            config: `config.data.train` or one of `config.evals`: manifest, batch_size (of all
                processes together), sampler, transform, group, on_error, max_error_rate,
                allow_truncated, backend.
            name: of the stream, in messages and in WORKDIR/skipped.jsonl.
            classes: class names in their order; by default the labels that occur, sorted.

        Raises:
            ManifestError: the manifest cannot be used.
            ValueError: a value of the configuration is wrong.
        """
        self._config, self._name = config, name
        self._tokenizer, self._pool = tokenizer, pool
        self._seed = seed
        self._process_index, self._process_count = process_index, process_count
        if config["on_error"] not in POLICIES:
            raise self._wrong("on_error", f"one of {', '.join(POLICIES)}")
        if config["batch_size"] < 1 or config["batch_size"] % process_count:
            raise self._wrong("batch_size", f"a positive multiple of {process_count} processes")
        self._local_batch = config["batch_size"] // process_count
        self._manifest = pathlib.Path(config["manifest"])
        self.records = read_manifest(self._manifest)
        self._has_text = self._all_or_none("caption", [bool(r.captions) for r in self.records])
        self._has_label = self._all_or_none("label", [r.label is not None for r in self.records])
        self.classes = list(classes) or _labels(self.records)
        self._class_index = {name: index for index, name in enumerate(self.classes)}
        self._check_labels()
        host = f"-{process_index}" if process_index else ""
        path = pathlib.Path(workdir) / f"skipped{host}.jsonl"
        self._skips = SkipLog(path, name, self.records, config["max_error_rate"])
        self._shape: tuple[int, ...] | None = None  # of a clip, once one was read

    @property
    def skipped(self) -> list[str]:
        """Ids of the records that could not be read and were left out or replaced."""
        return self._skips.ids

    def train(self, place: Place = _on_host, state: Mapping[str, Any] | None = None) -> Stream:
        """An endless stream of batches, each epoch in another order.

        A batch holds `video` uint8 [b, t, H, W, 3], `ids` int32 [b], and, if the manifest has
        them, `text` int32 [b, l] (of several captions one, drawn) and `label` int32 [b]; b is this
        process's share. Rows of a group are neighbours. No record comes twice in a batch, unless
        in the place of one that could not be read.

        Args:
            place: puts a batch where it is used.
            state: of the stream to continue.

        Raises:
            ManifestError: rows have no group, or groups differ in size.
            ValueError: the manifest does not fill one batch, or a batch would split a group.
        """
        units = self._units()
        members = len(units[0])
        if self._local_batch % members:
            rule = f"a multiple of {members} rows a group x {self._process_count} processes"
            raise self._wrong("batch_size", rule)
        per_batch = self._config["batch_size"] // members
        if per_batch > len(units):
            raise self._wrong("batch_size", f"at most the {len(self.records)} rows of the manifest")
        reader = self._reader(units)
        shuffled = grain.MapDataset.source(range(len(units))).shuffle(seed=self._seed)
        positions = shuffled[: len(units) // per_batch * per_batch].repeat()
        return Stream(self._batches(reader, positions, self._local_batch // members), place, state)

    def evaluate(self, place: Place = _on_host, step: int = 0) -> Stream:
        """One pass in the manifest's order.

        A batch is as in `train`, with the first caption as `text` and with `mask` bool [b]: False,
        and the video zero, where a row only fills the last batch (id -1) or where its video could
        not be read and on_error is 'skip'.

        Args:
            step: how long the model was trained; a video that fails now is bad from here on.

        Raises:
            ValueError: on_error is 'replace', which would change what is measured.
        """
        if self._config["on_error"] == "replace":
            raise self._wrong("on_error", "'raise' or 'skip' in an evaluation")
        count = len(self.records)
        units = [[index] for index in range(count)]
        reader = self._reader(units, keep_failed=True, start=step * count)
        padding = [PADDING] * (-count % self._config["batch_size"])
        positions = grain.MapDataset.source([*range(count), *padding])
        return Stream(self._batches(reader, positions, self._local_batch, evaluation=True), place)

    def captions(self) -> Iterator[Batch]:
        """All captions of all rows in order: `text` int32 [b, l], `ids` int32 [b], `mask` bool [b].

        The last batch is padded as in `evaluate`.
        """
        pairs = [(i, text) for i, record in enumerate(self.records) for text in record.captions]
        pairs += [(PADDING, "")] * (-len(pairs) % self._config["batch_size"])
        mine = pairs[self._process_index :: self._process_count]
        for first in range(0, len(mine), self._local_batch):
            rows = mine[first : first + self._local_batch]
            ids = np.array([index for index, _ in rows], np.int32)
            text = self._tokenizer([text for _, text in rows])
            yield {"text": text, "ids": ids, "mask": ids != PADDING}

    def _batches(
        self,
        reader: Reader,
        positions: grain.MapDataset[int],
        units_per_batch: int,
        evaluation: bool = False,
    ) -> grain.IterDataset[Batch]:
        mine = positions.map_with_index(reader.fetch)[self._process_index :: self._process_count]
        threads = 2 * max(1, self._pool.workers)  # so that no decoder waits for its next request
        reading = grain.ReadOptions(threads, max(2 * units_per_batch, threads))
        settled = mine.to_iter_dataset(reading).map(reader.settle)
        return settled.filter(lambda unit: unit is not None).batch(
            units_per_batch,
            drop_remainder=True,
            batch_fn=lambda found: self._collate([e for unit in found for e in unit], evaluation),
        )

    def _reader(self, units: Sequence[Sequence[int]], **options: Any) -> Reader:
        config = self._config
        sampler, transform = _plain(config["sampler"]), _plain(config["transform"])

        def read(record: int, seed: int) -> np.ndarray:
            request = ClipRequest(
                path=self.records[record].video,
                sampler=sampler["name"],
                frames=sampler["frames"],
                transform=transform,
                seed=seed,
                backend=config["backend"],
                allow_truncated=config["allow_truncated"],
            )
            return self._pool.read(request)

        policy = config["on_error"]
        return Reader(read, units, self._skips, policy=policy, seed=self._seed, **options)

    def _collate(self, examples: Sequence[Example], evaluation: bool) -> Batch:
        records = [self.records[e.record] if e.record != PADDING else None for e in examples]
        batch = {
            "video": self._stack(examples),
            "ids": np.array([e.record for e in examples], np.int32),
        }
        if evaluation:
            batch["mask"] = np.array([e.frames is not None for e in examples])
        if self._has_text:
            draws = [0.0 if evaluation else e.draw for e in examples]
            texts = [
                r.captions[int(draw * len(r.captions))] if r else ""
                for r, draw in zip(records, draws, strict=True)
            ]
            batch["text"] = self._tokenizer(texts)
        if self._has_label:
            labels = [self._class_index[r.label] if r and r.label else 0 for r in records]
            batch["label"] = np.array(labels, np.int32)
        return batch

    def _stack(self, examples: Sequence[Example]) -> np.ndarray:
        shapes = {e.frames.shape: e for e in examples if e.frames is not None}
        if len(shapes) > 1:
            found = ", ".join(f"{self.records[e.record].id} {s}" for s, e in shapes.items())
            raise ValueError(f"{self._name}.transform must give all clips one shape, not {found}")
        self._shape = next(iter(shapes), self._shape)
        if self._shape is None:
            raise RuntimeError(f"{self._name}: no video of the first batch could be read")
        empty = np.zeros(self._shape, np.uint8)
        return np.stack([empty if e.frames is None else e.frames for e in examples])

    def _units(self) -> list[list[int]]:
        """Indices of records that belong into the same batch, in the manifest's order."""
        column = self._config["group"]
        if not column:
            return [[index] for index in range(len(self.records))]
        units: dict[Any, list[int]] = {}
        for index, record in enumerate(self.records):
            if column not in record.extra:
                reason = f"has no column {column!r}, which {self._name}.group names"
                raise ManifestError(self._manifest, reason, record.line)
            units.setdefault(record.extra[column], []).append(index)
        sizes = {len(members): value for value, members in units.items()}
        if len(sizes) > 1:
            found = ", ".join(f"{size} rows with {column}={v!r}" for size, v in sizes.items())
            raise ManifestError(self._manifest, f"groups must be of one size; there are {found}")
        return list(units.values())

    def _all_or_none(self, column: str, present: Sequence[bool]) -> bool:
        if any(present) and not all(present):
            line = self.records[present.index(False)].line
            raise ManifestError(self._manifest, f"has no `{column}`, as other rows have", line)
        return all(present)

    def _check_labels(self) -> None:
        for record in self.records:
            if record.label is not None and record.label not in self._class_index:
                shown = ", ".join(self.classes[:5])
                reason = (
                    f"label {record.label!r} is none of {len(self.classes)} classes ({shown}, ...)"
                )
                raise ManifestError(self._manifest, reason, record.line)

    def _wrong(self, field: str, rule: str) -> ValueError:
        return ValueError(f"{self._name}.{field}={self._config[field]!r}: must be {rule}")


def _labels(records: Sequence[Record]) -> list[str]:
    """The labels that occur, numbers in their order before words in theirs."""
    found = {r.label for r in records if r.label is not None}
    return sorted(found, key=lambda s: (0, int(s), s) if s.isdecimal() else (1, 0, s))


def _plain(value: Any) -> dict[str, Any]:
    """A ConfigDict or a dict as a dict that a worker process can be sent."""
    return value.to_dict() if hasattr(value, "to_dict") else dict(value)
