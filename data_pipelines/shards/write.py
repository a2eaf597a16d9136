"""Writes one shard: its videos in order; broken ones are left out and reported."""

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from array_record.python.array_record_module import ArrayRecordWriter

from data_pipelines.shards import files
from data_pipelines.shards.encode import Request
from data_pipelines.shards.folder import Plan, report_path
from vlt.data.video.clips import DecoderPool
from vlt.data.video.errors import VideoError

# One record per group, for random access; videos do not compress any further.
WRITER_OPTIONS = "group_size:1,uncompressed"
WORKER = (sys.executable, "-P", "-m", "data_pipelines.shards.worker")


def write_shard(
    out: str, plan: Plan, shard: str, videos: Sequence[tuple[str, str]], pool: DecoderPool
) -> None:
    """Writes OUT/SHARD, then its report; does nothing if the report exists.

    The same plan and videos give the same bytes.

    videos: name and sha256 (or '') of each. pool: processes that run WORKER.
    """
    if files.read(report_path(out, shard)) is not None:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, shard)
        writer = ArrayRecordWriter(path, WRITER_OPTIONS)
        try:
            found = [_write_video(writer, plan, *video, pool) for video in videos]
        finally:
            writer.close()
        records = sum("error" not in row for row in found)
        report = {"records": records, "bytes": os.path.getsize(path), "videos": found}
        files.publish(path, files.join(out, shard))
    files.write(report_path(out, shard), json.dumps(report).encode())


def _write_video(
    writer: ArrayRecordWriter, plan: Plan, name: str, sha256: str, pool: DecoderPool
) -> dict[str, Any]:
    with files.local_copy(files.join(plan.videos, name)) as path:
        try:
            record = pool.read(Request(path, name, sha256, plan.run, plan.settings()))
        except VideoError as error:
            return {"video": name, "error": type(error).__name__, "reason": error.reason}
    writer.write(record.tobytes())
    return {"video": name}
