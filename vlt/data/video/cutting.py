"""Cuts a time range out of a video file, into a file of its own.

Compressed packets are copied where they can be decoded on their own: from a keyframe to another, or
to the end, or to any frame where there are no B-frames. Otherwise exactly the frames of the range
are re-encoded as H.264. Sound is copied.
"""

import dataclasses
import itertools
import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from vlt.data.video import errors
from vlt.data.video.containers import open_container, packets_of, video_stream
from vlt.data.video.decode import Video
from vlt.storage.files import WriteError, new_file

TICK = Fraction(1, 90_000)  # seconds, the time base of encoded frames
QUALITY = {"crf": "16", "preset": "veryfast"}
MOV_SUFFIXES = (".mp4", ".mov", ".m4v")
SUFFIXES = (*MOV_SUFFIXES, ".mkv", ".avi")
AT_ONCE = 32  # frames that are decoded together
BT709, UNSAID, BT601, LIMITED = 1, 2, 5, 1  # matrices and a range, by libav's numbers
MP4_SOUND = ("aac", "ac3", "alac")
NO_TEMPLATE = ("libdav1d",)  # only decodes, so PyAV cannot make a stream to copy to from it


@dataclasses.dataclass(frozen=True)
class CutRequest:
    """A range from `start` to `end`, in seconds from the first frame, `end` not included.

    stem: path of the new file without its suffix, which depends on the content. An existing file
    of that name is replaced.
    """

    path: str
    start: float
    end: float
    stem: str
    allow_truncated: bool = False


def cut(request: CutRequest) -> np.ndarray:
    """Writes the range; returns JSON, uint8 [n]: `file` (its path) and `copied` (if packets were).

    Raises:
        errors.VideoError: the file cannot be read; WrongFrames where it has no frame in the range.
        RuntimeError: the new file cannot be written.
    """
    with Video(request.path, allow_truncated=request.allow_truncated) as video:
        frames = _frames_of(video, request)
        copied = _stands_for_itself(video, frames)
        target = Path(request.stem + _suffix(request.path, video, copied))
        try:
            with new_file(target) as unfinished:
                (_copy if copied else _encode)(video, frames, request, unfinished)
        except WriteError as error:
            raise RuntimeError(str(error)) from error
        except av.FFmpegError as error:
            raise RuntimeError(f"{target} cannot be written: {error}") from error
    told = {"file": str(target), "copied": copied}
    return np.frombuffer(json.dumps(told).encode(), np.uint8)


def _frames_of(video: Video, request: CutRequest) -> range:
    times = video.timestamps()
    first, after = np.searchsorted(times - times[0], (request.start, request.end))
    if first >= after:
        raise errors.WrongFrames(
            request.path,
            f"no frame from {request.start:g} s to {request.end:g} s; it lasts "
            f"{video.info().duration:.2f} s",
        )
    return range(int(first), int(after))


def _stands_for_itself(video: Video, frames: range) -> bool:
    """Whether the packets of these frames, and no others, suffice to decode all of them."""
    index = video.index
    if index.doubt or index.open_gop or video.codec in NO_TEMPLATE:
        return False
    keys = set(index.keyframe_pts)
    ends = frames.stop == len(video) or index.pts[frames.stop] in keys
    return index.pts[frames.start] in keys and (ends or not video.has_b_frames)


def _suffix(path: str, video: Video, copied: bool) -> str:
    """The suffix of a container that can hold the new file's streams."""
    if copied:
        if video.container.startswith("mov,"):
            suffix = Path(path).suffix.lower() or ".mp4"
            return suffix if suffix in MOV_SUFFIXES else ".mkv"
        return ".avi" if video.container == "avi" else ".mkv"
    with open_container(path, None) as source:
        sound = source.streams.best("audio")
        return ".mp4" if sound is None or sound.codec_context.name in MP4_SOUND else ".mkv"


def _copy(video: Video, frames: range, request: CutRequest, target: Path) -> None:
    """Copies the packets of picture and sound, shifted to begin at 0."""
    shown = video.index.pts[frames.start : frames.stop]
    with open_container(request.path, None) as source, av.open(str(target), "w") as made:
        picture = video_stream(request.path, source)
        sound = source.streams.best("audio")
        streams = [each for each in (picture, sound) if each is not None]
        targets: dict[int, Any] = {s.index: made.add_stream_from_template(s) for s in streams}
        wanted = set(shown)
        span = _seconds(video, frames)
        for packet in packets_of(source, *streams):
            if packet.pts is None:
                continue
            if packet.stream.index == picture.index:
                if packet.pts not in wanted:
                    continue
                _move(packet, shown[0])
            elif not _move_sound(packet, span):
                continue
            packet.stream = targets[packet.stream.index]
            made.mux(packet)


def _encode(video: Video, frames: range, request: CutRequest, target: Path) -> None:
    """Encodes the frames, timed as before, and copies the packets of the sound."""
    times = video.timestamps()
    with av.open(str(target), "w") as made, open_container(request.path, None) as source:
        images = _images(video, frames)
        first, picture = next(images), video_stream(request.path, source)
        stream: Any = made.add_stream("libx264", options=QUALITY)
        # H.264 in 4:2:0 needs even sides: an odd one loses a row or a column.
        stream.height, stream.width = (side - side % 2 for side in first.shape[:2])
        stream.pix_fmt, stream.time_base = "yuv420p", TICK
        stream.codec_context.time_base = TICK
        matrix = _keep_look(picture, stream.codec_context)
        sound = source.streams.best("audio")
        track = None if sound is None else made.add_stream_from_template(sound)
        for index, image in zip(frames, itertools.chain([first], images), strict=False):
            image = np.ascontiguousarray(image[: stream.height, : stream.width])
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=matrix, dst_color_range=LIMITED
            )
            frame.pts = round((times[index] - times[frames.start]) / TICK)
            frame.time_base = TICK
            made.mux(stream.encode(frame))
        made.mux(stream.encode(None))
        if sound is not None:
            _copy_sound(source, sound, track, made, _seconds(video, frames))


def _keep_look(picture: Any, made: Any) -> int:
    """Makes an encoder keep the shape of the pixels and the meaning of the colours; returns the
    matrix by which RGB becomes what it encodes."""
    seen = picture.codec_context
    pixel = picture.sample_aspect_ratio
    if pixel:  # inverted where the frames are turned by a quarter
        upright = (made.height >= made.width) == (seen.height >= seen.width)
        made.sample_aspect_ratio = pixel if upright else 1 / pixel
    matrix = BT709 if seen.colorspace == BT709 else BT601
    # What is not said stays so, or else players would show it in other colours than the source.
    made.colorspace = UNSAID if seen.colorspace == UNSAID else matrix
    made.color_primaries, made.color_trc = seen.color_primaries, seen.color_trc
    made.color_range = LIMITED
    return matrix


def _images(video: Video, frames: range) -> Iterator[np.ndarray]:
    """Yields the frames, uint8 RGB [H, W, 3]; once they can only be read from the file's start, in
    one pass."""
    for at in range(frames.start, frames.stop, AT_ONCE):
        if video.index.doubt:
            yield from video.frames(range(at, frames.stop))
            return
        yield from video.read(range(at, min(at + AT_ONCE, frames.stop)))


def _copy_sound(source: Any, sound: Any, track: Any, made: Any, span: tuple[float, float]) -> None:
    for packet in packets_of(source, sound):
        if packet.pts is not None and _move_sound(packet, span):
            packet.stream = track
            made.mux(packet)


def _seconds(video: Video, frames: range) -> tuple[float, float]:
    """Start and end of the range in seconds, by the file's own clock."""
    times = video.timestamps()
    after = times[frames.stop] if frames.stop < len(video) else times[0] + video.info().duration
    return float(times[frames.start]), float(after)


def _move_sound(packet: Any, span: tuple[float, float]) -> bool:
    """Whether a packet of sound lies in the range; if so, shifts it to the range's new start."""
    if not span[0] <= float(packet.pts * packet.time_base) < span[1]:
        return False
    _move(packet, round(span[0] / packet.time_base))
    return True


def _move(packet: Any, by: int) -> None:
    packet.pts -= by
    if packet.dts is not None:
        packet.dts -= by
