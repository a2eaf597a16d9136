"""Videos in ArrayRecord shards, as `python -m data_pipelines.shards` writes them.

A folder of shards holds `shards.json`, the shards, and a manifest whose rows name records instead
of files: `video` is `NAME.array_record#N`, record N (from 0) of a shard beside the manifest. A
record is msgpack: `run`, the run that made it, `video`, what it was made of, and either `content`,
the bytes of a video file, or `frames`, JPEG files, with `fps`. Either is read as the video of the
frames that it holds: samplers count those and nothing else.
"""

import functools
import io
import json
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import msgpack
import numpy as np
from PIL import Image

from vlt.data import errors

INDEX = "shards.json"
SUFFIX = ".array_record"
FORMS = ("clips", "frames")
# Shards that a process keeps open: more than this are opened anew when their turn comes.
_OPEN_SHARDS = 256

_REFERENCE = re.compile(rf"(.+{re.escape(SUFFIX)})#(\d+)")


def shard_of(video: str) -> str | None:
    """Path of the shard that a manifest's `video` is a record of; None where it is a file."""
    found = _REFERENCE.fullmatch(video)
    return found[1] if found else None


def broken_shards(videos: Iterable[str]) -> dict[str, str]:
    """{path: why it cannot be read} of the shards that hold `videos`, by names and sizes alone."""
    shards = dict.fromkeys(filter(None, map(shard_of, videos)))
    found = {}
    for shard in shards:
        try:
            _check_size(shard)
        except errors.BrokenShard as error:
            found[shard] = error.reason
    return found


def read_record(video: str) -> Mapping[str, Any]:
    """The record that a manifest's `video` names, as a dict.

    Raises: errors.BrokenShard.
    """
    match = _REFERENCE.fullmatch(video)
    if match is None:
        raise ValueError(f"{video!r} names no record: must be SHARD{SUFFIX}#NUMBER")
    shard, number = match[1], int(match[2])
    source = _open(shard)
    if number >= len(source):
        raise errors.BrokenShard(video, f"the shard has {len(source)} records, from 0")
    try:
        record = msgpack.unpackb(source[number])
    except (RuntimeError, ValueError) as error:
        raise errors.BrokenShard(video, f"the record is damaged: {error}") from error
    run = _index(os.path.dirname(shard))["run"]
    if record.get("run") != run:
        reason = f"the shard is of another run ({record.get('run')}) than its {INDEX} ({run})"
        raise errors.BrokenShard(video, reason)
    return record


def pack_record(record: Mapping[str, Any]) -> bytes:
    """The bytes of a record; the same record gives the same bytes."""
    return msgpack.packb(dict(record))


@functools.lru_cache(_OPEN_SHARDS)
def _open(shard: str) -> Sequence[bytes]:
    from grain.sources import ArrayRecordDataSource  # a second, which files do not need

    _check_size(shard)
    try:
        return ArrayRecordDataSource(shard)
    except RuntimeError as error:
        raise errors.BrokenShard(shard, f"cannot be opened: {error}") from error


def _check_size(shard: str) -> None:
    folder, name = os.path.split(shard)
    entry = _index(folder)["shards"].get(name)
    if entry is None:
        raise errors.BrokenShard(shard, f"is no shard that {INDEX} beside it knows")
    if not os.path.isfile(shard):
        raise errors.BrokenShard(shard, "there is no such shard")
    size = os.path.getsize(shard)
    if size != entry["bytes"]:
        raise errors.BrokenShard(shard, f"has {size:,} bytes instead of {entry['bytes']:,}")


@functools.cache
def _index(folder: str) -> Mapping[str, Any]:
    path = pathlib.Path(folder) / INDEX
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        reason = "there is no such file: the shards beside it are not complete"
        raise errors.BrokenShard(str(path), reason) from None
    except ValueError as error:
        raise errors.BrokenShard(str(path), f"not JSON: {error}") from None


class StoredFrames:
    """The video whose frames are JPEG files: read as a `vlt.data.decode.Video` is.

    path: its name in messages. fps: frames a second.
    """

    def __init__(self, path: str, frames: Sequence[bytes], fps: float):
        self.path, self.fps, self._frames = path, fps, frames

    def __len__(self) -> int:
        return len(self._frames)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self, indices: Sequence[int], *, backend: str = "pyav") -> np.ndarray:
        """The frames at `indices`, in any order: uint8 RGB [len(indices), H, W, 3].

        Raises: errors.WrongFrames, errors.BrokenShard, errors.UnsupportedByDecord.
        """
        if backend == "decord":
            raise errors.UnsupportedByDecord(self.path, "holds JPEG files; use backend='pyav'")
        outside = [i for i in indices if not 0 <= i < len(self)]
        if outside:
            reason = f"frame {outside[0]} was asked for; frames 0 to {len(self) - 1} exist"
            raise errors.WrongFrames(self.path, reason)
        found = {i: self._decode(i) for i in dict.fromkeys(indices)}
        return np.stack([found[i] for i in indices])

    def _decode(self, index: int) -> np.ndarray:
        try:
            return np.asarray(Image.open(io.BytesIO(self._frames[index]), formats=["JPEG"]))
        except OSError as error:
            raise errors.BrokenShard(self.path, f"frame {index} is damaged: {error}") from error
