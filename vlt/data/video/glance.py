"""One frame to look at, wherever in a file it is, without reading what comes before it."""

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Iterator

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter

from vlt.data.video import errors
from vlt.data.video.containers import open_container, packets_of, video_stream
from vlt.data.video.orientation import upright


@dataclasses.dataclass(frozen=True)
class GlanceRequest:
    """Which frame to show: the one shown `at` seconds after the first."""

    path: str
    at: float


def glance(request: GlanceRequest) -> np.ndarray:
    """The frame that libav finds: uint8 RGB [H, W, 3].

    That is the frame which `Video` gives for this time, unless the file's timestamps cannot be
    trusted: then it may be another near it. Nothing is checked but the frame itself.

    Raises: errors.CannotOpen, NotAVideo, NoFrames, WrongFrames, UnsupportedTurn.
    """
    path, nearest = request.path, None
    # Seeking may land too late, or nowhere; then what is sought is earlier.
    for earlier in (0.0, 2.0, 8.0, 32.0, math.inf):
        with open_container(path, None) as container:
            stream = video_stream(path, container)
            frames = _decoded(container, stream, max(0.0, request.at - earlier))
            begins, frame = _shown(frames, request.at)
            nearest = nearest if frame is None else frame
            if begins <= request.at or request.at <= earlier:
                break
    if nearest is None:
        raise errors.NoFrames(path, f"no frame decodes {request.at:g} s after its first")
    return upright(nearest, path, VideoReformatter())


def _decoded(
    container: InputContainer, stream: av.VideoStream, at: float
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Frames from the keyframe before `at`, each with its seconds after the first."""
    tick, start = float(stream.time_base or 0), stream.start_time or 0
    rate = float(stream.average_rate or stream.guessed_rate or 25)
    with contextlib.suppress(av.FFmpegError):  # what came before the error was whole
        if at and tick:
            container.seek(start + int(at / tick), stream=stream)
        packets = itertools.chain(packets_of(container, stream), [None])
        decode = stream.codec_context.decode
        frames = itertools.chain.from_iterable(map(decode, packets))
        for number, frame in enumerate(frames):
            if not frame.is_corrupt:
                yield number / rate if frame.pts is None else (frame.pts - start) * tick, frame


def _shown(
    frames: Iterator[tuple[float, av.VideoFrame]], at: float
) -> tuple[float, av.VideoFrame | None]:
    """The last frame that begins by then, or else the first, with its time; (inf, None) if there
    is none."""
    found: tuple[float, av.VideoFrame | None] = (math.inf, None)
    for begins, frame in frames:
        if begins > at and found[1] is not None:
            break
        found = (begins, frame)
    return found
