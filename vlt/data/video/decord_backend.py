"""decord as a second decoder, held to the frames that PyAV finds.

decord 0.6.0 is right where it reads a file in order, and silently wrong where it seeks among
pictures that are shown before the keyframe preceding them (open GOP, in H.264 and HEVC), or in AVI
files with B-frames. For pictures of more than 8 bits, and for some colour samplings, it gives other
pixels; mirrored pictures come out as they are stored. Such files, and those whose frames it
miscounts, are refused. Its libav cannot be told which formats to open, so it gets only files whose
containers are recognised by their first bytes, which it cannot take for playlists.
"""

import io
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Protocol

import av
import numpy as np

from vlt.data.video import errors
from vlt.data.video.index import PacketIndex
from vlt.data.video.orientation import display_matrix

# Each is recognised by its first bytes.
_CONTAINERS = ("mov,", "matroska,", "avi", "flv", "asf", "gif")
# Pixel formats for which decord gave PyAV's pixels, in every codec and colour space tried.
_PIXELS = {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "yuv411p"}
_PIXELS |= {"gray", "gbrp", "rgb24", "rgba", "bgr0", "bgra"}


class OpenVideo(Protocol):
    """The part of `vlt.data.video.decode.Video` that is used here."""

    path: str
    index: PacketIndex

    def __len__(self) -> int: ...
    @property
    def fps(self) -> float: ...
    @property
    def container(self) -> str: ...
    @property
    def has_b_frames(self) -> bool: ...
    @property
    def seeks(self) -> bool: ...
    def timestamps(self) -> np.ndarray: ...
    def read(self, indices: Sequence[int]) -> np.ndarray: ...
    def source(self) -> str | io.BytesIO: ...
    def first_frame(self) -> av.VideoFrame: ...


def read(video: OpenVideo, wanted: np.ndarray) -> np.ndarray:
    """Reads frames of an open video by decord: uint8 RGB [len(wanted), H, W, 3]; `wanted` ascends.

    Raises: UnsupportedByDecord naming file and reason; ImportError if decord is not installed.
    """
    _refuse(video, _known_wrong(video))
    decord = _import_decord()
    try:
        reader = decord.VideoReader(video.source(), ctx=decord.cpu(0), num_threads=1)
        _refuse(video, _disagreement(video, reader))
        frames = reader.get_batch(wanted.tolist()).asnumpy()
    except (decord.DECORDError, RuntimeError) as error:
        cause = str(error).strip().splitlines()[-1]
        raise errors.UnsupportedByDecord(video.path, f"decord fails: {cause}") from error
    if frames.ndim != 4 or frames.shape[-1] != 3:
        _refuse(video, f"returns an array of shape {frames.shape}")
    return frames


def _refuse(video: OpenVideo, reason: str) -> None:
    if reason:
        raise errors.UnsupportedByDecord(video.path, f"decord {reason}; use backend='pyav'")


def _known_wrong(video: OpenVideo) -> str:
    if "mpegts" in video.container:
        return "loses the first frames of an MPEG transport stream"
    if not video.container.startswith(_CONTAINERS):
        return f"is not used for the container {video.container}"
    if (pixels := video.first_frame().format.name) not in _PIXELS:
        return f"gives other pixels of the format {pixels}"
    if not video.seeks:
        return ""
    if video.index.open_gop:
        return "seeks to wrong frames in open GOPs (frames shown before the keyframe they follow)"
    if video.has_b_frames and video.container == "avi":
        return "seeks to wrong frames in AVI files with B-frames"
    return ""


def _disagreement(video: OpenVideo, reader: Any) -> str:
    if len(reader) != len(video):
        return f"counts {len(reader)} frames where {len(video)} decode"
    starts = reader.get_frame_timestamp(list(range(len(video))))[:, 0]
    expected = video.timestamps()
    drift = np.abs((starts - starts[0]) - (expected - expected[0])).max()
    if video.seeks and drift > 0.5 / video.fps:
        return f"places frames {drift:.3g} s from their time"
    if display_matrix(video.first_frame()):
        first = reader.get_batch([0]).asnumpy()
        if not np.array_equal(first, video.read([0])):
            return "does not turn or mirror it as its display matrix asks"
    return ""


def _import_decord() -> ModuleType:
    try:
        import decord
    except ImportError as error:
        raise ImportError(
            "backend='decord' needs decord: pip install decord (wheels exist for x86_64 only); "
            "the default, backend='pyav', needs nothing more"
        ) from error
    decord.logging.set_level(decord.logging.QUIET)
    return decord
