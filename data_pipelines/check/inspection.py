"""Inspects one video from its first byte to its last frame."""

import dataclasses
import json

import numpy as np

from vlt.data.video.checksum import sha256_of, verify
from vlt.data.video.clips import open_video
from vlt.data.video.decode import Video
from vlt.data.video.errors import WrongFrames, WrongSeek
from vlt.data.video.index import logged_errors
from vlt.data.video.shards import StoredFrames, shard_of

JUMPS = 8  # frames that are read by jumping to them

Frames = dict[int, np.ndarray]  # uint8 [H, W, 3], by index


@dataclasses.dataclass(frozen=True)
class Request:
    """Which file to inspect. sha256: the sum that its bytes must have, or ''."""

    path: str
    sha256: str = ""


@dataclasses.dataclass(frozen=True)
class Found:
    """What a sound video holds.

    Attributes:
      frames: number of frames that decode. fps: frames per second. height, width: in pixels.
      in_order: why the file is read in order, or '' if its frames can be jumped to.
      sha256: sum of a file's bytes; '' for a shard's record.
    """

    frames: int
    fps: float
    height: int
    width: int
    in_order: str
    sha256: str


def inspect(request: Request) -> np.ndarray:
    """Decodes every frame in order, then some by jumping to them: `Found` as JSON, uint8 [n].

    Raises: errors.VideoError, WrongSeek.
    """
    sha256 = _checked_sum(request)
    with open_video(request.path) as video:
        try:
            frames, jumped = _decode(video)
        except WrongFrames:
            # The packets promised other times; from now on the video is read in order.
            frames, jumped = _decode(video)
        for index, frame in frames.items():
            if not np.array_equal(jumped.get(index, frame), frame):
                raise _wrong_seek(request.path, index)
        in_order = video.index.doubt if isinstance(video, Video) else ""
        height, width = frames[0].shape[:2]
        found = Found(len(video), round(video.fps, 3), height, width, in_order, sha256)
    return np.frombuffer(json.dumps(dataclasses.asdict(found)).encode(), np.uint8)


def _checked_sum(request: Request) -> str:
    if shard_of(request.path):
        return ""
    if not request.sha256:
        return sha256_of(request.path)
    verify(request.path, request.sha256)
    return request.sha256


def _decode(video: Video | StoredFrames) -> tuple[Frames, Frames]:
    """Some frames, as decoded in order with all others and as decoded by jumping to them."""
    indices = np.unique(np.linspace(0, len(video) - 1, JUMPS).round().astype(int)).tolist()
    if isinstance(video, StoredFrames):
        for index in range(len(video)):
            video.read([index])
        return {0: video.read([0])[0]}, {}
    errors = logged_errors()
    frames = dict(zip(indices, video.frames(indices), strict=True))
    clean = errors == logged_errors()
    # Backwards, so that each one is a jump; a file that is read in order has no jumps.
    jumped: Frames = {}
    for index in [] if video.index.doubt else indices[::-1]:
        jumped[index] = video.read([index])[0]
        if clean and video.index.doubt:  # it was read in order, after all
            raise _wrong_seek(video.path, index)
    return frames, jumped


def _wrong_seek(path: str, index: int) -> WrongSeek:
    return WrongSeek(path, f"frame {index} is another one when it is jumped to")
