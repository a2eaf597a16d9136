"""From a manifest to batches: shuffle, decode, sample, transform, tokenize, batch.

Decoding happens in the pool's worker processes; this process orders the work and keeps all state.
Everything random comes from (seed, position in the stream), so a stream's state is its position.
"""

import contextlib
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import grain
import jax
import numpy as np
from jax.sharding import Mesh

from vlt.data.chat_batches import ChatBatches
from vlt.data.manifests.features import NAME as FEATURES
from vlt.data.manifests.features import read_features
from vlt.data.manifests.manifest import ManifestError, Record, group_rows, read_classes
from vlt.data.manifests.packed import PackedRecords, WhenAsked, number_of, open_manifest
from vlt.data.manifests.resources import resolve
from vlt.data.manifests.targets import Targets
from vlt.data.reading import PADDING, POLICIES, Example, Reader
from vlt.data.skips import SkipLog
from vlt.data.stream import Batch, Stream
from vlt.data.text.captions import Cleaning
from vlt.data.text.tokenize import Tokenizer
from vlt.data.video.clips import ClipRequest
from vlt.data.video.errors import NoText, VideoError
from vlt.data.video.sample import RANDOM_SAMPLERS, check_sampler
from vlt.data.video.transform import CROPS, check_transform
from vlt.runtime.mesh import local_rows
from vlt.runtime.processes import check_alike

RANDOM_STEPS = {"random_resized_crop", "multi_scale_crop", "random_crop", "flip", "jitter"}
RANDOM_STEPS |= {"grayscale", "rand_augment", "blip_augment"}

CACHE_BYTES = 8 << 30  # of clips that are kept if `cache` is set; the rest are read each time

Place = Callable[[Batch], Any]


class Pool(Protocol):
    """Reads clips, from several threads at once (vlt.data.video.clips.DecoderPool)."""

    workers: int

    def read(self, request: ClipRequest) -> np.ndarray: ...


def _on_host(batch: Batch) -> Batch:
    return batch


class VideoData:
    """The videos of one manifest, to train on or to evaluate on.

    Attributes:
        name: name of the stream.
        manifest: path of the manifest.
        records: the rows; `ids` in batches are indices into them, -1 is padding.
        classes: class names, in the order of their indices.
        labels: class index of every record, int32 [records], or None without labels.
        transform: the transform of frames, a plain dict.
        clean: clean-up of captions and questions before the tokenizer, without the prompt.
        views: number of clips of t frames, one after another in a `video` [b, views * t, H, W, 3]:
            those of the sampler, times the crops of each.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        tokenizer: Tokenizer | ChatBatches,
        pool: Pool,
        *,
        name: str,
        workdir: str | os.PathLike[str],
        seed: int = 0,
        rows: Sequence[int] | None = None,
        process_index: int = 0,
    ):
        """
        Args:
            config: `config.data.train` or one of `config.evals`: manifest, batch_size (over
                all processes), sampler, transform, captions, clean, max_words, prefix, group,
                cache, on_error, max_error_rate, allow_truncated, backend and, if class names come
                from a file, classes.
            name: name of the stream, in messages and in WORKDIR/skipped.jsonl.
            rows: the rows of each batch that this process reads, ascending; all if None.
            process_index: that of this process; those after the first write skipped-INDEX.jsonl.

        Raises:
            ManifestError: the manifest or the file of classes cannot be used.
            ValueError: a value of the configuration is wrong.
        """
        self._config, self.name, self._seed = config, name, seed
        self._tokenizer, self._pool = tokenizer, pool
        self._sampler, self.transform = _plain(config["sampler"]), _plain(config["transform"])
        self._check_config()
        crops = CROPS if "three_crops" in self.transform else 1
        self.views = crops * self._sampler.get("clips", 1)
        self._rows = np.arange(config["batch_size"]) if rows is None else np.asarray(rows)
        self.manifest = resolve(config["manifest"])
        strict = config["on_error"] == "raise"
        self.records = open_manifest(self.manifest, check_videos=strict)
        classes = read_classes(resolve(config["classes"])) if config.get("classes") else []
        self.clean = Cleaning(config["clean"], config["max_words"])
        self._targets = Targets(
            self.manifest,
            self.records,
            config["captions"],
            classes,
            self.clean,
            config["prefix"],
            drop_empty=not strict,
        )
        self._texts = self._targets.texts()
        self._check_dialogues(isinstance(tokenizer, ChatBatches))
        self._video_ids = _numbers_of_videos(self.records)
        self.classes, self.labels = self._targets.classes, self._targets.labels
        host = f"-{process_index}" if process_index else ""
        path = pathlib.Path(workdir) / f"skipped{host}.jsonl"
        self._skips = SkipLog(path, name, self.records, config["max_error_rate"])
        self._kept: dict[int, np.ndarray] = {}  # clips by record, where `cache` is set
        self._kept_bytes = 0
        self._shape: tuple[int, ...] | None = None  # of a clip, once one has been read

    def _check_dialogues(self, chat: bool) -> None:
        """Raises ManifestError if a chat model lacks dialogues, or if another model has some."""
        if chat and not {"turns", "question"} & self._texts.keys():
            reason = "has neither `conversations` nor `question`, one of which a chat model needs"
            raise ManifestError(self.manifest, reason)
        if not chat and "turns" in self._texts:
            reason = "`conversations` are for chat models, which the config's is not"
            raise ManifestError(self.manifest, reason)

    def _check_config(self) -> None:
        check_sampler(self._sampler["name"])
        check_transform(self.transform)
        clips = self._sampler.get("clips", 1)
        if clips < 1:
            raise ValueError(f"{self.name}.sampler.clips must be >= 1, got {clips}")
        if self._config["on_error"] not in POLICIES:
            raise self._wrong("on_error", f"one of {', '.join(POLICIES)}")
        if self._config["batch_size"] < 1:
            raise self._wrong("batch_size", ">= 1")
        random = RANDOM_SAMPLERS & {self._sampler["name"]} | RANDOM_STEPS & self.transform.keys()
        if self._config["cache"] and random:
            rule = f"False, because {', '.join(sorted(random))} gives other clips in each epoch"
            raise self._wrong("cache", rule)

    @property
    def skipped(self) -> list[str]:
        """Ids of the records that could not be read and were left out or replaced."""
        return self._skips.ids

    def train(self, place: Place = _on_host, state: Mapping[str, Any] | None = None) -> Stream:
        """An endless stream of batches, each epoch in a different order.

        A batch holds `video` uint8 [b, t, H, W, 3], `ids` int32 [b], `video_id` int32 [b] (equal
        where rows name one video) and, if the manifest has them, `text`, `question` and `answer`
        int32 [b, l] (one of several captions or answers is drawn, alike within a group) and `label`
        int32 [b]; b is this process's share, and all shares together are the batch of a single
        process. Rows of a group are neighbours. No record occurs twice in a batch, except in place
        of one that could not be read.

        Args:
            place: puts a batch where it is used.
            state: state of the stream to continue, whatever number of processes read it.

        Raises:
            ManifestError: rows have no group, or groups differ in size.
            ValueError: the manifest does not fill one batch, a batch or this process's share of it
                would split a group, there are several views of a video, or on_error is 'skip' and
                other processes read too, which this one could get ahead of.
        """
        if self.views > 1:
            raise ValueError(f"{self.name}: training takes one view of a video, not {self.views}")
        column = self._config["group"]
        units = self._single()
        if column:
            units = group_rows(self.manifest, self.records, column)
        members = len(units[0])
        own = self._own_units(members)
        per_batch = self._config["batch_size"] // members
        if self._config["on_error"] == "skip" and len(own) < per_batch:
            raise self._wrong("on_error", "'raise' or 'replace' where several processes train")
        if per_batch > len(units):
            raise self._wrong("batch_size", f"at most the {len(self.records)} rows of the manifest")
        reader = self._reader(units)
        shuffled = grain.MapDataset.source(range(len(units))).shuffle(seed=self._seed)
        positions = shuffled[: len(units) // per_batch * per_batch].repeat()
        batches = self._batches(reader, positions, own, per_batch)
        return Stream(batches, place, state, share=(len(own), per_batch))

    def evaluate(self, place: Place = _on_host, step: int = 0) -> Stream:
        """One pass in the manifest's order.

        A batch is as in `train`, with the first caption and answer, without `video_id` and with
        `mask` bool [b]: False, and the video zero, where a row only fills the last batch (id -1) or
        where its video could not be read and on_error is 'skip'.

        Args:
            step: how long the model was trained; a video that fails now counts as bad from here on.

        Raises:
            ValueError: on_error is 'replace', which would change what is measured.
        """
        if self._config["on_error"] == "replace":
            raise self._wrong("on_error", "'raise' or 'skip' in an evaluation")
        count = len(self.records)
        reader = self._reader(self._single(), keep_failed=True, start=step * count)
        size = self._config["batch_size"]
        padded = grain.MapDataset.range(count + -count % size)
        positions = padded.map(lambda i: i if i < count else PADDING)
        return Stream(self._batches(reader, positions, self._rows, size, evaluation=True), place)

    def _single(self) -> Sequence[Sequence[int]]:
        """Every record as a unit of its own."""
        return WhenAsked(len(self.records), lambda index: (index,))

    def _own_units(self, members: int) -> np.ndarray:
        """Which units of a batch this process reads, int [u]; each has `members` rows."""
        if self._config["batch_size"] % members:
            raise self._wrong("batch_size", f"a multiple of {members} rows a group")
        own = np.unique(self._rows // members)
        if len(own) * members != len(self._rows):
            rule = f"such that every process's rows, here {len(self._rows)}, are a multiple of the "
            raise self._wrong("batch_size", f"{rule}{members} rows of a group")
        return own

    def _batches(
        self,
        reader: Reader,
        positions: grain.MapDataset[int],
        own: np.ndarray,
        per_batch: int,
        evaluation: bool = False,
    ) -> grain.IterDataset[Batch]:
        """Batches of the units that this process reads, the `own` of each `per_batch` positions."""
        everything = positions.map_with_index(reader.fetch)
        share = len(own)
        mine = grain.MapDataset.range(len(positions) // per_batch * share).map(
            lambda i: everything[i // share * per_batch + int(own[i % share])]
        )
        threads = 2 * max(1, self._pool.workers)  # so that no decoder waits for its next request
        reading = grain.ReadOptions(threads, max(2 * share, threads))
        settled = mine.to_iter_dataset(reading).map(reader.resolve_in_order)
        return settled.filter(lambda unit: unit is not None).batch(
            share,
            drop_remainder=True,
            batch_fn=lambda found: self._collate([e for unit in found for e in unit], evaluation),
        )

    def _reader(self, units: Sequence[Sequence[int]], **options: Any) -> Reader:
        policy = self._config["on_error"]
        return Reader(self._read, units, self._skips, policy=policy, seed=self._seed, **options)

    def _read(self, record: int, seed: int) -> np.ndarray:
        if record in self._kept:
            return self._kept[record]
        if self._targets.is_textless(record):
            raise NoText(self.records[record].video, "no text is left after clean-up")
        if isinstance(self._tokenizer, ChatBatches) and FEATURES in self.records[record].extra:
            return self._features(record)
        request = ClipRequest(
            path=self.records[record].video,
            sampler=self._sampler["name"],
            frames=self._sampler["frames"],
            clips=self._sampler.get("clips", 1),
            transform=self.transform,
            seed=seed,
            backend=self._config["backend"],
            allow_truncated=self._config["allow_truncated"],
            sha256=self.records[record].sha256,
        )
        frames = self._pool.read(request)
        if self._config["cache"] and self._kept_bytes + frames.nbytes <= CACHE_BYTES:
            self._kept_bytes += frames.nbytes
            self._kept[record] = frames
        return frames

    def _features(self, record: int) -> np.ndarray:
        """A video's features [t, n, d], kept by data_pipelines.features, in place of its frames."""
        row = self.records[record]
        found = read_features(self.manifest.parent / str(row.extra[FEATURES]))
        if len(found) != self._sampler["frames"]:
            reason = f"features of {len(found)} frames; {self.name}.sampler.frames must match"
            raise ManifestError(self.manifest, reason, row.line)
        return found

    def _collate(self, examples: Sequence[Example], evaluation: bool) -> Batch:
        ids = np.array([e.record for e in examples], np.int32)
        batch = {"video": self._stack(examples), "ids": ids}
        if evaluation:
            batch["mask"] = np.array([e.frames is not None for e in examples])
        else:
            batch["video_id"] = np.array([self._video_ids[i] for i in ids], np.int32)
        chosen = {
            name: [_text(choose, example, evaluation) for example in examples]
            for name, choose in self._texts.items()
        }
        rows = [f"{self.manifest}, line {self.records[i].line}" for i in ids]
        batch |= self._tokenizer.entries(chosen, rows)
        if self.labels is not None:
            batch["label"] = np.where(ids == PADDING, np.int32(0), self.labels[ids])
        return batch

    def _stack(self, examples: Sequence[Example]) -> np.ndarray:
        shapes = {e.frames.shape: e for e in examples if e.frames is not None}
        if len(shapes) > 1:
            found = ", ".join(f"{self.records[e.record].id} {s}" for s, e in shapes.items())
            raise ValueError(f"{self.name}.transform must give all clips one shape, not {found}")
        self._shape = next(iter(shapes), self._shape) or self.clip_shape()
        empty = np.zeros(self._shape, np.uint8)
        return np.stack([empty if e.frames is None else e.frames for e in examples])

    def clip_shape(self) -> tuple[int, ...]:
        """The shape (t, H, W, 3) of the clip of the first video that can be read.

        Raises:
            ValueError: none can be read.
        """
        for record in range(len(self.records)):
            with contextlib.suppress(VideoError):  # reported where it is read for its own sake
                return self._read(record, self._seed).shape
        raise ValueError(f"{self.name}: no video of {self.manifest} could be read")

    def _wrong(self, field: str, rule: str) -> ValueError:
        return ValueError(f"{self.name}.{field}={self._config[field]!r}: must be {rule}")


def _text(choose: Callable[[int, float], Any], example: Example, evaluation: bool) -> Any:
    if example.record == PADDING:
        return ""
    return choose(example.record, 0.0 if evaluation else example.draw)


def _numbers_of_videos(records: Sequence[Record]) -> Sequence[int] | np.ndarray:
    """An int32 for each record, equal where records name one video."""
    if isinstance(records, PackedRecords):
        return WhenAsked(len(records), lambda index: number_of(records[index].video))
    return _numbered([record.video for record in records])


def _numbered(names: Sequence[str]) -> np.ndarray:
    """A number for each name, int32 [names], equal where names are equal."""
    first: dict[str, int] = {}
    return np.array([first.setdefault(name, len(first)) for name in names], np.int32)


def _plain(value: Any) -> dict[str, Any]:
    """A ConfigDict or a dict as a plain dict, which can be sent to a worker process."""
    return value.to_dict() if hasattr(value, "to_dict") else dict(value)


def videos_of(section: Mapping[str, Any], mesh: Mesh, *given: Any, **options: Any) -> VideoData:
    """The `VideoData` of a data section, with the rows that this process's devices need.

    Raises: as VideoData; MeshError for a batch that the mesh cannot split; DistributedError if
        processes see manifests with different rows.
    """
    rows = local_rows(mesh, section["batch_size"]).tolist()
    data = VideoData(section, *given, rows=rows, process_index=jax.process_index(), **options)
    records = data.records
    if isinstance(records, PackedRecords):
        told = records.name()
    else:
        told = "\n".join(record.id for record in records)
    check_alike(f"{data.name}: {data.manifest}", told)
    return data
