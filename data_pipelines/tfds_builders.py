"""TensorFlow Datasets of the papers' data sets, made from their manifests and videos.

    import data_pipelines.tfds_builders  # registers vlt_msrvtt, vlt_kinetics400, ...
    builder = tfds.builder("vlt_msrvtt", data_dir="tfds")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir="data/msrvtt")
    )
    source = builder.as_data_source("test_1ka")  # random access, for grain

manual_dir is the folder with the manifests that `python -m data_pipelines.NAME` wrote, or one of
re-encoded clips from `python -m data_pipelines.shards` with its manifest named after the split.
Each video is one example, with all that the split's rows say about it. Files are ArrayRecord;
TensorFlow is not imported.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines import (
    activitynet,
    didemo,
    hmdb51,
    kinetics,
    lsmdc,
    msrvtt,
    msrvtt_captions,
    msrvtt_qa,
    msvd,
    ssv2,
    ucf101,
    vatex,
)
from vlt.data.manifests.manifest import Record, read_manifest
from vlt.data.video.checksum import verify
from vlt.data.video.shards import read_record, shard_of

SUFFIXES = (".jsonl", ".csv", ".parquet")


def _names(splits: Sequence[Any]) -> tuple[str, ...]:
    return tuple(split.name for split in splits)


# name -> (what it is, names of its splits)
DATASETS: dict[str, tuple[str, tuple[str, ...]]] = {
    "msrvtt": ("MSR-VTT for retrieval", _names(msrvtt.SPLITS)),
    "msrvtt_captions": ("MSR-VTT for captioning", _names(msrvtt_captions.SPLITS)),
    "msrvtt_qa": ("MSRVTT-QA", _names(msrvtt_qa.SPLITS)),
    "msvd": ("MSVD", _names(msvd.SPLITS)),
    "vatex": ("VATEX", _names(vatex.SPLITS)),
    "lsmdc": ("LSMDC", _names(lsmdc.SPLITS)),
    "didemo": ("DiDeMo", _names(didemo.SPLITS)),
    "activitynet": ("ActivityNet Captions", _names(activitynet.SPLITS)),
    "kinetics400": ("Kinetics-400", _names(kinetics.SPLITS[:-3])),
    "kinetics600": ("Kinetics-600", ("train", "val", *_names(kinetics.SPLITS[-3:]))),
    "hmdb51": ("HMDB-51", _names(hmdb51.SPLITS)),
    "ucf101": ("UCF-101", _names(ucf101.SPLITS)),
    "ssv2": ("Something-Something v2", _names(ssv2.SPLITS)),
    "webvid2m": ("WebVid-2M", ("train", "val")),
}

FEATURES = {
    "video": tfds.features.Text(),  # its path from the manifest, or the source's
    "content": tfds.features.Scalar(dtype=np.object_),  # the bytes of the video file
    "ids": tfds.features.Sequence(tfds.features.Text()),  # ids of its rows
    "captions": tfds.features.Sequence(tfds.features.Text()),
    "label": tfds.features.Text(),  # or ''
    # A question with several answers occurs once for each.
    "questions": tfds.features.Sequence(tfds.features.Text()),
    "answers": tfds.features.Sequence(tfds.features.Text()),
    "rows": tfds.features.Sequence(tfds.features.Text()),  # further columns, as JSON
}


class ManifestBuilder(  # type: ignore[call-arg]  # an argument of its __init_subclass__
    tfds.core.GeneratorBasedBuilder, skip_registration=True
):
    """A data set made from manifests; `DATASETS` has the names and splits of its subclasses."""

    VERSION = tfds.core.Version("1.0.0")
    DESCRIPTION = ""
    SPLITS: tuple[str, ...] = ()

    def __init__(self, *, file_format: str = "array_record", **options: Any):
        super().__init__(file_format=file_format, **options)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(FEATURES)
        return tfds.core.DatasetInfo(builder=self, description=self.DESCRIPTION, features=features)

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Any]]:
        folder = dl_manager.manual_dir
        files = {s: [folder / f"{s}{end}" for end in SUFFIXES] for s in self.SPLITS}
        found = {split: [f for f in paths if f.exists()] for split, paths in files.items()}
        if not any(found.values()):
            wanted = ", ".join(f"{split}.jsonl" for split in self.SPLITS)
            raise FileNotFoundError(f"{folder} holds no manifest of {self.name}: it takes {wanted}")
        return {split: self._generate_examples(f[0]) for split, f in found.items() if f}

    def _generate_examples(self, manifest: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        by_video: dict[str, list[Record]] = {}
        for record in read_manifest(manifest):
            by_video.setdefault(record.video, []).append(record)
        for video, records in by_video.items():
            yield video, _example(video, records)


def _example(video: str, records: Sequence[Record]) -> dict[str, Any]:
    if sha256 := next((r.sha256 for r in records if r.sha256), ""):
        verify(video, sha256)
    name, content = _content(video)
    asked = [(r.question, answer) for r in records if r.question for answer in r.answers]
    return {
        "video": name,
        "content": content,
        "ids": [r.id for r in records],
        "captions": [caption for r in records for caption in r.captions],
        "label": records[0].label or "",
        "questions": [question for question, _ in asked],
        "answers": [answer for _, answer in asked],
        "rows": [json.dumps(r.extra, ensure_ascii=False) for r in records],
    }


def _content(video: str) -> tuple[str, bytes]:
    """Name and bytes of a video file.

    Raises: ValueError for a record of frames; errors.BrokenShard.
    """
    if shard_of(video) is None:
        with open(video, "rb") as file:
            return video, file.read()
    record = read_record(video)
    if "content" not in record:
        raise ValueError(f"{video} holds JPEG frames: must be of --form=clips")
    return record["video"], record["content"]


BUILDERS = {
    name: type(
        f"Vlt{name.title().replace('_', '')}",
        (ManifestBuilder,),
        {
            "__module__": __name__,
            "__doc__": f"{title}, of its manifests.",
            "name": f"vlt_{name}",
            "DESCRIPTION": title,
            "SPLITS": splits,
            "MANUAL_DOWNLOAD_INSTRUCTIONS": f"Manifests of {title}: {', '.join(splits)}.",
        },
    )
    for name, (title, splits) in DATASETS.items()
}
