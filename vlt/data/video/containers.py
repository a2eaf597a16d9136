"""Opens a file with libav: only the formats listed here, and nothing but the file itself.

libav opens much that is not video: playlists, scripts and session descriptions make it read other
files, contact servers or listen on ports. So only the formats listed here are opened, over no
protocol but `file`, and pictures of more than MOST_PIXELS pixels are not decoded.
"""

import contextlib
import io
import os
import re
import stat
from collections.abc import Iterator
from typing import Any

import av
from av.container import InputContainer
from av.stream import Disposition

from vlt.data.video import errors

# Twice the pixels of 8K (7680 x 4320): 200 MB as RGB.
MOST_PIXELS = 1 << 26
# Largest ratio of a frame's long side to its short side.
MOST_THIN = 100
_OPTIONS = {"max_pixels": str(MOST_PIXELS)}

_VIDEO = "mov matroska avi flv asf ogg mpeg mpegts mxf rm nut wtv dv ivf gif apng yuv4mpegpipe"
_BARE = "h264 hevc mjpeg"  # raw streams, without a container, that are read
# Raw streams that are refused: libav also takes files with a damaged container header for them.
_RAW = ("h261", "h263", "m4v", "mpegvideo", "cavsvideo", "dirac", "obu", "vc1")
_SOUND = "wav mp3 flac aac"  # opened to report that the file holds sound alone
_FORMATS = ",".join([*_VIDEO.split(), *_BARE.split(), *_RAW, *_SOUND.split()])
# What else is taken for a video: regular expressions for the first bytes -> libav's name.
_KINDS = {
    b"#EXTM3U": "a playlist (hls)",
    rb"\[playlist\]": "a playlist",
    b"ffconcat": "a script that names other files (concat)",
    b"v=0": "a session description (sdp)",
    b"<": "a manifest or a page, in XML or HTML",
    b"\x89PNG": "a still image (png_pipe)",
    b"\xff\xd8\xff": "a still image (jpeg_pipe)",
    rb"RIFF....WEBP": "a still image (webp_pipe)",
    b"BM": "a still image (bmp_pipe)",
    rb"II\*\0": "a still image (tiff_pipe)",
    rb"MM\0\*": "a still image (tiff_pipe)",
}
# Matroska's tag for a track's own end.
_TRACK_END = re.compile(r"(\d{1,4}):(\d\d):(\d\d(?:\.\d+)?)")
_FILE_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


_PYAV = int(av.__version__.partition(".")[0])
# Options of `av.open` by which tags that are not UTF-8 are no error; from PyAV 19 they never are.
LENIENT_TAGS: dict[str, Any] = {"metadata_errors": "replace"} if _PYAV < 19 else {}


def open_container(path: str, content: bytes | None) -> InputContainer:
    """Opens a file, or its bytes, for reading. path: also its name in messages.

    Raises: errors.CannotOpen; errors.NotAVideo if its format is known not to be video.
    """
    if content is None:
        check_is_file(path)
    try:
        return av.open(
            f"file:{path}" if content is None else io.BytesIO(content),
            "r",
            **LENIENT_TAGS,
            container_options={
                "format_whitelist": _FORMATS,
                "protocol_whitelist": "file" if content is None else "none",
            },
            options=_OPTIONS,
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        raise _refusal(path, content, error) from error


def check_is_file(path: str) -> None:
    """Raises errors.CannotOpen unless the path is a regular file: opening another may block
    forever."""
    if os.path.isfile(path):
        return
    try:
        kind = _FILE_KINDS.get(stat.S_IFMT(os.stat(path).st_mode), "")
    except (OSError, ValueError):
        kind = ""
    reason = f"it is {kind}" if kind else "no such file"
    raise errors.CannotOpen(path, f"cannot be opened: {reason}")


def _refusal(path: str, content: bytes | None, error: Exception) -> errors.VideoError:
    try:
        start = _start(path) if content is None else content[:16]
    except OSError:
        start = b"unreadable"
    if not start:
        return errors.CannotOpen(path, "cannot be opened: the file is empty")
    known = (kind for magic, kind in _KINDS.items() if re.match(magic, start, re.DOTALL))
    if kind := next(known, ""):
        return errors.NotAVideo(path, f"not a video: libav reads it as {kind}")
    if isinstance(error, av.ArgumentError):  # libav's error for a format that is not listed
        return errors.NotAVideo(path, "not a video: its format is not one that is read as video")
    cause = getattr(error, "strerror", None) or error
    return errors.CannotOpen(path, f"cannot be opened: {cause}")


def _start(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(16)


def video_stream(path: str, container: InputContainer) -> av.VideoStream:
    """The best video stream of an open file, with one decoding thread. path: for messages.

    Raises: errors.CannotOpen, errors.NotAVideo, errors.WrongFrames.
    """
    if container.format.name in _RAW:
        name = container.format.name
        raise errors.CannotOpen(path, f"no container: libav reads it as bare {name}")
    found = container.streams.video
    if not found:
        raise errors.NotAVideo(path, "not a video: it has no video stream")
    moving = [s for s in found if not s.disposition & Disposition.attached_pic]
    if not moving:
        raise errors.NotAVideo(path, "not a video: sound with a cover picture")
    best = container.streams.best("video")
    stream = best if best in moving else moving[0]
    assert isinstance(stream, av.VideoStream)
    codec = stream.codec_context
    if codec is None:
        raise errors.CannotOpen(path, "cannot be opened: no decoder for its video codec")
    unreadable = [s for s in found if s.codec_context and not s.codec_context.pix_fmt]
    if any(s.frames > stream.frames > 0 for s in unreadable):
        raise errors.CannotOpen(path, "its longest video stream cannot be decoded")
    check_size(path, codec.height, codec.width)
    codec.options = dict(_OPTIONS)
    codec.thread_type, codec.thread_count = "NONE", 1
    return stream


def packets_of(container: InputContainer, *streams: Any) -> Iterator[av.Packet]:
    """The packets of these streams, without libav's own empty ones, which mean "flush".

    A stream that only appears within the file, as in recordings of television, makes PyAV fail when
    it adds the empty packets: all others have come by then.
    """
    with contextlib.suppress(IndexError):
        yield from (packet for packet in container.demux(*streams) if packet.size)


def check_size(path: str, height: int, width: int) -> None:
    """Raises errors.WrongFrames if frames are too large, or so thin that resizing their short
    side would make them too large."""
    size = f"its frames have {height:,} x {width:,} pixels"
    if height * width > MOST_PIXELS:
        raise errors.WrongFrames(path, f"{size}; at most {MOST_PIXELS:,} are read")
    if max(height, width) > MOST_THIN * min(height, width) > 0:
        raise errors.WrongFrames(path, f"{size}; one side may be {MOST_THIN} times the other")


def tagged_end(stream: av.VideoStream) -> float:
    """Seconds at which a Matroska track ends, by its own tag; 0 if it has none."""
    tags = (value for name, value in stream.metadata.items() if name.startswith("DURATION"))
    found = next(filter(None, map(_TRACK_END.fullmatch, tags)), None)
    if found is None:
        return 0.0
    hours, minutes, seconds = map(float, found.groups())
    return 3600 * hours + 60 * minutes + seconds
