"""Exact frames of a video file: `decode(path, indices)` and `probe(path)`.

Frame i is the i-th frame that a decoder yields when it reads the file from its start. Where the
packets' timestamps can be trusted to tell which packet shows frame i, decoding starts at the
keyframe it needs and skips what nothing depends on. Every timestamp that comes out is checked
against the index; at the first surprise the file is read in order instead.
"""

import dataclasses
import io
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Self

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import VideoReformatter

from vlt.data import decord_backend, errors
from vlt.data.index import Surprise, build_index, frames_at, packets_of
from vlt.data.whole import find_break

BACKENDS = ("pyav", "decord")

# The file was cut when its last frame ends before this share of the promised duration.
_WHOLE_FROM = 0.9
# libav reads still images and texts as videos of one frame, by these demuxers and "*_pipe".
_STILL_DEMUXERS = ("image2", "tty")
# Streams without a container, which libav also sees in files whose container's header is damaged.
_RAW_DEMUXERS = ("h261", "h263", "m4v", "mpegvideo", "cavsvideo", "dirac", "obu", "vc1")


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """What a file holds, counted, not read from its header.

    Attributes:
      frames: number of frames that decode.
      fps: mean frames a second over `timestamps` (of a single frame: the header's).
      duration: seconds from the first frame's start to the last one's end.
      timestamps: float64 [frames], seconds, in the order in which the frames decode.
      codec, container: libav's names.
    """

    frames: int
    fps: float
    duration: float
    timestamps: np.ndarray
    codec: str
    container: str


def decode(
    path: str | os.PathLike,
    indices: Sequence[int],
    *,
    backend: str = "pyav",
    allow_truncated: bool = False,
) -> np.ndarray:
    """Frames of a video: uint8 RGB [len(indices), H, W, 3], rotated as the file's tag asks.

    `indices` count from 0, in any order, repeats allowed. `backend="decord"` gives the same pixels
    or raises UnsupportedByDecord. One decoding thread.

    Raises: what `Video` and `Video.read` raise.
    """
    with Video(path, allow_truncated=allow_truncated) as video:
        return video.read(indices, backend=backend)


def probe(path: str | os.PathLike, *, allow_truncated: bool = False) -> VideoInfo:
    """Counts and times the frames of a video. Raises: what `Video` raises."""
    with Video(path, allow_truncated=allow_truncated) as video:
        return video.info()


class Video:
    """An open video file: its best video stream, one decoding thread. A context manager.

    With `allow_truncated` a file that was cut is the video of the frames that exist. `content` are
    the bytes of a file that is not on disk under `path`, its name in messages.

    Raises: CannotOpen, NotAVideo, Truncated, NoFrames.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        allow_truncated: bool = False,
        content: bytes | None = None,
    ):
        self.path = os.fspath(path)
        self._content = content
        self._allow_truncated = allow_truncated
        self._reformatter = VideoReformatter()
        self._error = ""
        self._open()
        try:
            self._break = find_break(self.path, content, self.container)
            self.index = build_index(self._container, self._stream)
            self._pts: list[int] = self.index.pts
            if self.index.doubt or self._cut():
                self.scan()
            self._check_usable()
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        """The number of frames that decode."""
        return len(self._pts)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees the decoder and the file."""
        self._container.close()

    @property
    def fps(self) -> float:
        """Mean frames a second; the header's where there is but one frame."""
        span = (max(self._pts) - min(self._pts)) * self._tick
        return (len(self) - 1) / span if span else self._header_fps

    @property
    def codec(self) -> str:
        """libav's name of the decoder."""
        return self._codec.name

    @property
    def container(self) -> str:
        """libav's names of the container format."""
        return self._container.format.name

    @property
    def has_b_frames(self) -> bool:
        """Whether the decoder reorders frames."""
        return bool(self._codec.has_b_frames)

    @property
    def seeks(self) -> bool:
        """Whether the file has a keyframe beside its first frame."""
        return len(self.index.keyframes) > 1

    def timestamps(self) -> np.ndarray:
        """Seconds at which the frames are shown: float64 [len(self)]."""
        return np.array(self._pts, np.float64) * self._tick

    def info(self) -> VideoInfo:
        times = self.timestamps()
        return VideoInfo(
            frames=len(self),
            fps=self.fps,
            duration=self._end() - float(times.min()),
            timestamps=times,
            codec=self.codec,
            container=self.container,
        )

    def read(self, indices: Sequence[int], *, backend: str = "pyav") -> np.ndarray:
        """The frames at `indices`: uint8 RGB [len(indices), H, W, 3].

        Raises:
          WrongFrames: an index outside 0..len(self) - 1, also where reading showed that fewer
            frames exist than the packets promised (len(self) then is their true number); or frames
            of different sizes.
          Truncated: reading met an error, and cut files are not allowed.
          UnsupportedByDecord: see `decord_backend`.
        """
        if backend not in BACKENDS:
            raise errors.unknown("backend", backend, BACKENDS)
        wanted, inverse = np.unique(np.asarray(indices, np.int64), return_inverse=True)
        self._check_range(wanted)
        if backend == "decord":
            frames = decord_backend.read(self, wanted)
        else:
            frames = self._read_pyav(wanted)
        in_order = len(inverse) == len(wanted) and bool((np.diff(inverse) > 0).all())
        return frames if in_order else frames[inverse]

    def frames(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """The frames at `indices` (ascending), uint8 RGB [H, W, 3], one at a time.

        The whole file is decoded, once, whatever its length in little memory: also for errors that
        lie where no frame is wanted.

        Raises:
          Truncated: reading met an error, and cut files are not allowed.
          WrongFrames: the frames are others than the packets promised (len(self) and `timestamps`
            then tell of those that exist), or of different sizes.
        """
        promised, size, same, count = self._pts, None, True, 0
        places = iter(indices)
        place = next(places, None)
        for count, frame in enumerate(self._all_frames(), 1):
            same = count <= len(promised) and frame.pts in (None, promised[count - 1])
            if not same:
                break
            while place == count - 1:
                image = self._rgb(frame)
                size = size or image.shape[:2]
                if image.shape[:2] != size:
                    raise self._two_sizes(size, image.shape[:2])
                yield image
                place = next(places, None)
        if self._error or not same or count != len(promised):
            self.scan()
            self._check_usable()
            reason = f"{len(self)} frames decode, at other times than its packets promise"
            raise errors.WrongFrames(self.path, reason)

    def scan(self) -> None:
        """Decodes the whole file; what comes out, and nothing else, is its frames from now on."""
        self.index.doubt = self.index.doubt or "the whole file was decoded"
        self._pts, self._error = [], ""
        step = max(1, round(1 / (self._header_fps * self._tick)))
        for frame in self._all_frames():
            after = self._pts[-1] + step if self._pts else 0
            self._pts.append(after if frame.pts is None else frame.pts)

    def _open(self) -> None:
        if self._content is None and not os.path.isfile(self.path):
            raise errors.CannotOpen(self.path, "cannot be opened: no such file")
        try:
            self._container = av.open(self.source("file:"), "r", metadata_errors="replace")
        except (av.FFmpegError, OSError, ValueError) as error:
            empty = not (os.path.getsize(self.path) if self._content is None else self._content)
            cause = "the file is empty" if empty else getattr(error, "strerror", None) or error
            raise errors.CannotOpen(self.path, f"cannot be opened: {cause}") from error
        try:
            self._stream = self._video_stream()
        except BaseException:
            self.close()
            raise
        self._codec = self._stream.codec_context
        self._tick = float(self._stream.time_base or 0)
        self._header_fps = float(self._stream.average_rate or self._stream.guessed_rate or 25)

    def source(self, protocol: str = "") -> str | io.BytesIO:
        """What a decoder opens: the file's name, or its bytes.

        protocol: "file:" keeps libav from reading a colon in the name as a protocol.
        """
        return f"{protocol}{self.path}" if self._content is None else io.BytesIO(self._content)

    def _video_stream(self) -> av.VideoStream:
        demuxer = self.container
        if demuxer.endswith("_pipe") or demuxer in _STILL_DEMUXERS:
            raise errors.NotAVideo(self.path, f"not a video: libav reads it as {demuxer}")
        if demuxer in _RAW_DEMUXERS:
            raise errors.CannotOpen(self.path, f"no container: libav reads it as bare {demuxer}")
        stream = self._container.streams.best("video")
        if not isinstance(stream, av.VideoStream):
            raise errors.NotAVideo(self.path, "not a video: it has no video stream")
        if stream.disposition & Disposition.attached_pic:
            raise errors.NotAVideo(self.path, "not a video: sound with a cover picture")
        if stream.codec_context is None:
            raise errors.CannotOpen(self.path, "cannot be opened: no decoder for its video codec")
        if any(s.frames > stream.frames > 0 for s in self._unreadable_streams()):
            raise errors.CannotOpen(self.path, "its longest video stream cannot be decoded")
        stream.codec_context.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        return stream

    def _unreadable_streams(self) -> list[av.VideoStream]:
        found = [s for s in self._container.streams.video if s.codec_context]
        return [s for s in found if not s.codec_context.pix_fmt]

    def _end(self) -> float:
        """Seconds at which the last frame stops being shown."""
        return max(self._pts) * self._tick + (self.index.last_duration * self._tick or 1 / self.fps)

    def _cut(self) -> str:
        """How the file is cut; '' where it is whole."""
        if self._error:
            return f"truncated: after {len(self)} frames the decoder ends in: {self._error}"
        promised = (self._stream.duration or 0) * self._tick
        promised = promised or (self._container.duration or 0) / av.time_base
        if self._pts and self._end() < _WHOLE_FROM * promised:
            return f"truncated: its frames end at {self._end():.2f} s of {promised:.2f} s"
        if self._break:
            return f"truncated or damaged: {self._break}"
        if self.index.torn:
            return "truncated or damaged: packets, or parts of them, are missing"
        if len(self) < self.index.pictures:
            return f"damaged: {len(self)} frames decode of {self.index.pictures} pictures"
        return ""

    def _check_usable(self) -> None:
        if self._cut() and not self._allow_truncated:
            raise errors.Truncated(self.path, self._cut())
        if not self._pts:
            raise errors.NoFrames(self.path, f"no frame decodes {self._error}".strip())

    def _check_range(self, wanted: np.ndarray) -> None:
        if len(wanted) and not 0 <= wanted[0] <= wanted[-1] < len(self):
            outside = int(wanted[0] if wanted[0] < 0 else wanted[-1])
            raise errors.WrongFrames(
                self.path, f"frame {outside} was asked for; frames 0 to {len(self) - 1} exist"
            )

    def _read_pyav(self, wanted: np.ndarray) -> np.ndarray:
        if not self.index.doubt:
            wanted_pts = [self._pts[i] for i in wanted]
            try:
                frames = frames_at(wanted_pts, self.index, self._packets(), self._codec)
                return self._fill(len(wanted), frames)
            except (Surprise, av.FFmpegError) as surprise:
                self.index.doubt = str(surprise)
            self.scan()
            self._check_usable()
            self._check_range(wanted)
        return self._fill(len(wanted), self._read_through(wanted.tolist()))

    def _packets(self) -> Iterator[av.Packet]:
        if self.index.packets is None:
            self.close()
            self._open()
            return packets_of(self._container, self._stream)
        self._codec.flush_buffers()
        return iter(self.index.packets)

    def _fill(self, count: int, frames: Iterable[av.VideoFrame]) -> np.ndarray:
        out = np.empty((count, 0, 0, 3), np.uint8)
        filled = 0
        for image in map(self._rgb, frames):
            if filled == 0:
                out = np.empty((count, *image.shape), np.uint8)
            if image.shape != out.shape[1:]:
                raise self._two_sizes(out.shape[1:3], image.shape[:2])
            out[filled] = image
            filled += 1
        if filled < count:
            raise errors.WrongFrames(self.path, f"only {filled} of {count} frames came out")
        return out

    def _two_sizes(self, *sizes: tuple[int, ...]) -> errors.WrongFrames:
        found = " and ".join(map(str, sizes))
        return errors.WrongFrames(self.path, f"frames of two sizes (H, W): {found}")

    def _rgb(self, frame: av.VideoFrame) -> np.ndarray:
        turns = frame.rotation // 90 % 4
        frame = self._reformatter.reformat(frame, format="rgb24", threads=1)
        plane = frame.planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        image = rows[: frame.height, : 3 * frame.width].reshape(frame.height, frame.width, 3)
        return np.rot90(image, turns) if turns else image

    def _read_through(self, wanted: list[int]) -> Iterator[av.VideoFrame]:
        keep = set(wanted)
        frames = itertools.islice(self._all_frames(), wanted[-1] + 1 if wanted else 0)
        return (frame for i, frame in enumerate(frames) if i in keep)

    def _all_frames(self) -> Iterator[av.VideoFrame]:
        """Decodes from the start with a fresh decoder; an error ends it and is kept."""
        self.close()
        self._open()
        try:
            for packet in itertools.chain(packets_of(self._container, self._stream), [None]):
                yield from self._codec.decode(packet)
        except av.FFmpegError as error:
            self._error = error.strerror or str(error)
