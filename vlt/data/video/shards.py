"""Videos in ArrayRecord shards, as `python -m data_pipelines.shards` writes them.

A folder of shards holds `shards.json`, the shards, and a manifest whose rows name records instead
of files: `video` is `NAME.array_record#N`, record N (from 0) of a shard beside the manifest. A
record is msgpack: `run`, the run that made it, `video`, what it was made from, and either
`content`, the bytes of a video file, or `frames`, JPEG files, with `fps`. Either is read as a video
of the frames that it holds: samplers count those and nothing else.
"""

import functools
import io
import itertools
import json
import math
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import msgpack
import numpy as np
from PIL import Image

from vlt.data.video import errors
from vlt.data.video.containers import check_size

INDEX = "shards.json"
SUFFIX = ".array_record"
FORMS = ("clips", "frames")
# Number of shards that a process keeps open; beyond it, shards are reopened when needed.
_OPEN_SHARDS = 256

_REFERENCE = re.compile(rf"(.+{re.escape(SUFFIX)})#([0-9]{{1,18}})")


def shard_of(video: str) -> str | None:
    """Path of the shard whose record a manifest's `video` names; None if it names a file."""
    found = _REFERENCE.fullmatch(video)
    return found[1] if found else None


def broken_shards(videos: Iterable[str]) -> dict[str, str]:
    """{path: why it cannot be read} for the shards of `videos`; checks names and sizes alone."""
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
    except (RuntimeError, ValueError, TypeError, msgpack.UnpackException) as error:
        raise errors.BrokenShard(video, f"the record is damaged: {error}") from error
    _check_record(video, record)
    run = _index(os.path.dirname(shard))["run"]
    if record["run"] != run:
        reason = f"the shard is of another run ({record['run']}) than its {INDEX} ({run})"
        raise errors.BrokenShard(video, reason)
    return record


def _check_record(video: str, record: Any) -> None:
    """Raises errors.BrokenShard unless the record holds what the module docstring says, no more."""
    match record:
        case {"run": str(), "video": str(), "content": bytes(), **rest} if not rest:
            return
        case {"run": str(), "video": str(), "frames": [*frames], "fps": float() | int(), **rest}:
            fps = record["fps"]
            is_rate = type(fps) is not bool and 0 < fps < math.inf
            if is_rate and frames and all(isinstance(f, bytes) for f in frames) and not rest:
                return
    raise errors.BrokenShard(video, f"the record is damaged: {_found(record)}")


def _found(record: Any) -> str:
    """What is wrong with a record, in short."""
    if not isinstance(record, dict):
        return f"it holds {type(record).__name__} instead of fields"
    kinds = {str(name)[:40]: type(value).__name__ for name, value in record.items()}
    most = dict(itertools.islice(kinds.items(), 8))
    fps = f", fps={record['fps']!r}" if isinstance(record.get("fps"), float | int) else ""
    wanted = "run and video (str) and content (bytes), or frames (bytes, one or more) and fps (> 0)"
    return f"it holds {most}{fps} instead of {wanted}"


def pack_record(record: Mapping[str, Any]) -> bytes:
    """The bytes of a record; the same record gives the same bytes."""
    return msgpack.packb(dict(record))


@functools.lru_cache(_OPEN_SHARDS)
def _open(shard: str) -> Sequence[bytes]:
    from grain.sources import ArrayRecordDataSource  # takes a second, which files do not need

    _check_size(shard)
    try:
        return ArrayRecordDataSource(shard)
    except (RuntimeError, OSError, ValueError) as error:
        raise errors.BrokenShard(shard, f"cannot be opened: {error}") from error


def _check_size(shard: str) -> None:
    folder, name = os.path.split(shard)
    entry = _index(folder)["shards"].get(name)
    if entry is None:
        raise errors.BrokenShard(shard, f"is not a shard that the {INDEX} beside it lists")
    if not os.path.isfile(shard):
        raise errors.BrokenShard(shard, "there is no such shard")
    size = os.path.getsize(shard)
    if size != entry["bytes"]:
        raise errors.BrokenShard(shard, f"has {size:,} bytes instead of {entry['bytes']:,}")


@functools.cache
def _index(folder: str) -> Mapping[str, Any]:
    path = pathlib.Path(folder) / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        reason = "there is no such file: the shards beside it are not complete"
        raise errors.BrokenShard(str(path), reason) from None
    except OSError as error:
        raise errors.BrokenShard(str(path), f"cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise errors.BrokenShard(str(path), f"not JSON: {error}") from None
    match index:
        case {"run": str(), "shards": {**shards}}:
            sizes = [s.get("bytes") if isinstance(s, dict) else None for s in shards.values()]
            if all(isinstance(size, int) for size in sizes):
                return index
    reason = "is not an index of shards: it must hold `run`, and `shards` with the `bytes` of each"
    raise errors.BrokenShard(str(path), reason)


class StoredFrames:
    """A video whose frames are JPEG files; it is read like a `vlt.data.video.decode.Video`.

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

        Raises: errors.WrongFrames (no such frame, too large, or two sizes), errors.BrokenShard,
          errors.UnsupportedByDecord.
        """
        if backend == "decord":
            raise errors.UnsupportedByDecord(self.path, "holds JPEG files; use backend='pyav'")
        outside = [i for i in indices if not 0 <= i < len(self)]
        if outside:
            reason = f"frame {outside[0]} was asked for; frames 0 to {len(self) - 1} exist"
            raise errors.WrongFrames(self.path, reason)
        found = {i: self._decode(i) for i in dict.fromkeys(indices)}
        sizes = dict.fromkeys(image.shape[:2] for image in found.values())
        if len(sizes) > 1:
            told = " and ".join(map(str, sizes))
            raise errors.WrongFrames(self.path, f"frames of two sizes (H, W): {told}")
        return np.stack([found[i] for i in indices])

    def _decode(self, index: int) -> np.ndarray:
        try:
            with Image.open(io.BytesIO(self._frames[index]), formats=["JPEG"]) as image:
                check_size(self.path, image.height, image.width)
                if image.mode != "RGB":
                    raise ValueError(f"its colours are {image.mode} instead of RGB")
                return np.asarray(image)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise errors.BrokenShard(self.path, f"frame {index} is damaged: {error}") from error
