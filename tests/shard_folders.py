"""Folders of shards for tests, made without Beam, and the videos they are made of."""

import json
import pathlib

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from data_pipelines.shards import folder
from data_pipelines.shards.write import WORKER, WRITER_OPTIONS, write_shard
from vlt.data.moving_shapes.writer import write_video
from vlt.data.video.clips import DecoderPool
from vlt.data.video.shards import INDEX

FPS = 10  # of the videos


def draw(frames: int, height: int = 36, width: int = 48, seed: int = 0) -> np.ndarray:
    """Smooth pictures that change with time, no two alike: uint8 [frames, height, width, 3]."""
    y, x = np.mgrid[:height, :width] / 8
    t = np.arange(frames)[:, None, None, None] / 4
    waves = np.stack([np.sin(x + seed), np.sin(y), np.cos(x + y)], -1)
    return (127 + 60 * waves + 60 * np.sin(t + np.arange(3))).astype(np.uint8)


def write_videos(root: pathlib.Path, lengths=(23, 7, 12, 30, 1), **size) -> pathlib.Path:
    """Writes lossless videos root/videos/N.mov with `lengths` frames; returns their manifest."""
    (root / "videos").mkdir(parents=True)
    rows = []
    for number, frames in enumerate(lengths):
        write_video(root / "videos" / f"{number}.mov", draw(frames, seed=number, **size))
        rows.append({"video": f"videos/{number}.mov", "caption": [f"a {number}", "b"], "n": number})
    return write_rows(root / "train.jsonl", rows)


def write_rows(manifest: pathlib.Path, rows) -> pathlib.Path:
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


def read_lines(path: pathlib.Path) -> list:
    return [json.loads(line) for line in path.read_text().splitlines()]


def prepare(manifest: pathlib.Path, out: pathlib.Path, form, per_shard: int = 2):
    """Starts a run; returns its plan, its rows and {shard: videos}."""
    rows = folder.read_rows(str(manifest))
    plan = folder.make_plan(str(manifest), "", form, per_shard)
    videos = folder.distinct_videos(rows)
    folder.start(str(out), plan, videos)
    names = folder.shard_names(plan, len(videos))
    return plan, rows, {n: videos[i * per_shard :][:per_shard] for i, n in enumerate(names)}


def make(manifest: pathlib.Path, out: pathlib.Path, form, per_shard: int = 2) -> pathlib.Path:
    """Makes a whole folder of shards; returns its manifest."""
    plan, rows, shards = prepare(manifest, out, form, per_shard)
    with DecoderPool(1, 60, WORKER) as pool:
        for shard, videos in shards.items():
            write_shard(str(out), plan, shard, videos, pool)
    folder.finish(str(out), plan, rows)
    folder.tidy(str(out))
    return out / folder.MANIFEST


def forge(folder: pathlib.Path, *records: bytes) -> list[str]:
    """Makes a folder of one shard with any bytes as records; returns their names in a manifest."""
    folder.mkdir()
    path = folder / "forged.array_record"
    writer = ArrayRecordWriter(str(path), WRITER_OPTIONS)
    for record in records:
        writer.write(record)
    writer.close()
    shards = {path.name: {"records": len(records), "bytes": path.stat().st_size}}
    (folder / INDEX).write_text(json.dumps({"run": "forged", "shards": shards}))
    return [f"{path}#{number}" for number in range(len(records))]
