"""TFDS builders: each registered data set, built from small manifests and read through grain."""

import json
import subprocess
import sys

import grain
import numpy as np
import pytest
import tensorflow_datasets as tfds
from shard_folders import make, read_lines, write_rows, write_videos

from data_pipelines.shards.encode import Clips, Frames
from data_pipelines.tfds_builders import BUILDERS, DATASETS
from vlt.data.video.decode import Video
from vlt.data.video.errors import ChangedFile
from vlt.data.video.shards import read_record


def build(name, manual, data_dir):
    builder = tfds.builder(f"vlt_{name}", data_dir=data_dir)
    download = tfds.download.DownloadConfig(manual_dir=manual)
    builder.download_and_prepare(download_config=download)
    return builder


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    write_videos(root, lengths=(3, 4, 5))
    return root


def by_video(source):
    return {example["video"].decode().rsplit("/", 1)[-1]: example for example in source}


@pytest.mark.parametrize("name", DATASETS)
def test_a_data_set_gives_what_its_manifests_say(name, videos, tmp_path):
    _, splits = DATASETS[name]
    rows = read_lines(videos / "train.jsonl")
    written = (splits[0], splits[-1])
    for number, split in enumerate(written):
        write_rows(videos / f"{split}.jsonl", [row | {"pair": number} for row in rows])
    builder = build(name, videos, tmp_path)
    assert set(builder.info.splits) == set(written)
    assert builder.info.file_format.value == "array_record"
    for number, split in enumerate(written):
        found = by_video(builder.as_data_source(split))
        assert found.keys() == {"0.mov", "1.mov", "2.mov"}
        for i, example in enumerate(found[f"{n}.mov"] for n in range(3)):
            assert example["content"] == (videos / "videos" / f"{i}.mov").read_bytes()
            assert list(example["captions"]) == [f"a {i}".encode(), b"b"]
            assert json.loads(example["rows"][0]) == {"n": i, "pair": number}
    for split in {*written} - {"train"}:
        (videos / f"{split}.jsonl").unlink()
    write_rows(videos / "train.jsonl", rows)


def test_rows_of_one_video_are_one_example(videos, tmp_path):
    rows = [
        {"id": "q0", "video": "0.mov", "question": "what?", "answer": ["a", "b"]},
        {"id": "q1", "video": "1.mov", "question": "who?", "answer": "c"},
        {"id": "q2", "video": "0.mov", "question": "where?", "answer": "d"},
    ]
    write_rows(videos / "videos" / "val.jsonl", rows)
    source = build("msrvtt_qa", videos / "videos", tmp_path).as_data_source("val")
    found = by_video(source)
    assert len(source) == 2
    assert list(found["0.mov"]["ids"]) == [b"q0", b"q2"]
    assert list(found["0.mov"]["questions"]) == [b"what?", b"what?", b"where?"]
    assert list(found["0.mov"]["answers"]) == [b"a", b"b", b"d"]


def test_clips_of_shards_decode_alike_through_grain(videos, tmp_path):
    manifest = make(videos / "train.jsonl", tmp_path / "shards", Clips(short_side=16))
    rows = [row | {"label": "run"} for row in read_lines(manifest)]
    for row in rows:
        row.pop("caption")
    write_rows(tmp_path / "shards" / "val.jsonl", rows)
    source = build("kinetics400", tmp_path / "shards", tmp_path).as_data_source("val")
    found = by_video(grain.MapDataset.source(source).shuffle(seed=1))
    for row in rows:
        record = read_record(str(tmp_path / "shards" / row["video"]))
        example = found[record["video"].rsplit("/", 1)[-1]]
        assert example["label"] == b"run" and list(example["ids"]) == [row["id"].encode()]
        with (
            Video("x", content=example["content"]) as a,
            Video("y", content=record["content"]) as b,
        ):
            every = range(len(a))
            assert len(a) == len(b) and np.array_equal(a.read(every), b.read(every))


def test_a_video_whose_sum_is_another_is_refused(videos, tmp_path):
    rows = [{"video": "0.mov", "label": "a"}, {"video": "0.mov", "label": "a", "sha256": "0" * 64}]
    write_rows(videos / "videos" / "test.jsonl", rows)
    with pytest.raises(ChangedFile, match="instead of the manifest's 000"):
        build("msvd", videos / "videos", tmp_path)


def test_frames_of_shards_are_refused(videos, tmp_path):
    manifest = make(videos / "train.jsonl", tmp_path / "shards", Frames())
    manifest.rename(manifest.with_name("val.jsonl"))
    with pytest.raises(ValueError, match="holds JPEG frames: must be of --form=clips"):
        build("msvd", manifest.parent, tmp_path)


def test_a_folder_without_manifests_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no manifest of vlt_msvd: it takes train.jsonl"):
        build("msvd", tmp_path, tmp_path)


def test_tensorflow_stays_out():
    program = "import sys, data_pipelines.tfds_builders; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_every_builder_is_registered():
    for name, builder in BUILDERS.items():
        assert tfds.builder_cls(f"vlt_{name}") is builder
