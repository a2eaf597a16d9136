"""Exact frames of a video file: `decode(path, indices)` and `probe(path)`.

Frame i is the i-th frame that a decoder yields when it reads the file from its start. Where the
packets' timestamps can be trusted to tell which packet shows frame i, decoding starts at the
keyframe it needs. Every timestamp that comes out is checked against the index; at the first
surprise, and at the first error that libav logs, the file is read in order instead.
"""

import contextlib
import dataclasses
import functools
import io
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Self

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from vlt.data.video import decord_backend, errors
from vlt.data.video.containers import open_container, packets_of, tagged_end, video_stream
from vlt.data.video.index import KEPT_BYTES, Surprise, build_index, frames_at
from vlt.data.video.orientation import upright
from vlt.data.video.whole import find_break

BACKENDS = ("pyav", "decord")

# A file counts as cut if its last frame ends before this share of the promised duration.
_WHOLE_FROM = 0.9


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """What a file holds, found by counting, not read from its header.

    Attributes:
      frames: number of frames that decode.
      fps: mean frames a second over `timestamps` (for a single frame, the header's rate).
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
    """Frames of a video: uint8 RGB [len(indices), H, W, 3], mirrored and turned as the file's
    display matrix asks (vlt.data.video.orientation).

    `indices` count from 0, in any order, repeats allowed. `backend="decord"` gives the same pixels
    or raises UnsupportedByDecord. Decoding uses one thread.

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

    With `allow_truncated`, a truncated file is a video of the frames that exist. `content` holds
    the bytes of a file that is not on disk; `path` is then only its name in messages.

    Raises: CannotOpen, NotAVideo, Truncated, NoFrames; WrongFrames if the frames are too large, or
      change size in a file that is not whole.
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
        self._sizes: dict[tuple[int, int], None] = {}
        self._scanned: list[av.VideoFrame] = []  # all frames, if they are small enough to keep
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
        """Mean frames a second; the header's rate if there is only one frame."""
        span = (max(self._pts) - min(self._pts)) * self._tick
        return (len(self) - 1) / span if span else self._header_fps

    @property
    def codec(self) -> str:
        """libav's name for the decoder."""
        return self._codec.name

    @property
    def container(self) -> str:
        """libav's names for the container format."""
        return self._container.format.name

    @property
    def has_b_frames(self) -> bool:
        """Whether the decoder reorders frames."""
        return bool(self._codec.has_b_frames)

    @property
    def seeks(self) -> bool:
        """Whether the file has a keyframe besides its first frame."""
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
          WrongFrames: an index is outside 0..len(self) - 1, perhaps because reading showed that
            fewer frames exist than the packets promised (len(self) is then their true number); or
            frames differ in size.
          Truncated: reading met an error or a corrupt frame, and truncated files are not allowed.
          UnsupportedTurn: see `orientation`. UnsupportedByDecord: see `decord_backend`.
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

    def frames(self, indices: Iterable[int]) -> Iterator[np.ndarray]:
        """The frames at `indices` (ascending), uint8 RGB [H, W, 3], one at a time.

        The whole file is decoded once, in little memory whatever its length, so that errors are
        found even where no frame is wanted.

        Raises:
          Truncated: reading met an error or a corrupt frame, and truncated files are not allowed.
          UnsupportedTurn: see `orientation`.
          WrongFrames: the frames are not those that the packets promised (len(self) and
            `timestamps` then describe those that exist), or they differ in size.
        """
        promised, size, same, count = self._pts, None, True, 0
        places = iter(indices)
        place = next(places, None)
        for count, frame in enumerate(self._in_order(), 1):
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
        failed = self._error and not self._allow_truncated
        if failed or not same or count != len(promised):
            self.scan()
            self._check_usable()
            reason = f"{len(self)} frames decode, at other times than its packets promise"
            raise errors.WrongFrames(self.path, reason)

    def scan(self) -> None:
        """Decodes the whole file; exactly the frames that come out are its frames from now on."""
        self.index.doubt = self.index.doubt or "the whole file was decoded"
        self._pts, self._scanned, self._error = [], [], ""
        step, size = max(1, round(1 / (self._header_fps * self._tick))), 0
        for frame in self._all_frames():
            after = self._pts[-1] + step if self._pts else 0
            self._pts.append(after if frame.pts is None else frame.pts)
            self._sizes[frame.height, frame.width] = None
            size += sum(plane.buffer_size for plane in frame.planes)
            if size <= KEPT_BYTES:
                self._scanned.append(frame)
            else:
                self._scanned.clear()

    def source(self) -> str | io.BytesIO:
        """What another decoder opens: the absolute path, which names no protocol, or the bytes."""
        return os.path.abspath(self.path) if self._content is None else io.BytesIO(self._content)

    def first_frame(self) -> av.VideoFrame:
        """The first frame as it is stored. Raises: what `read` raises."""
        frame = next(self._read_through([0]), None)
        if frame is None:
            raise errors.Truncated(self.path, self._cut())
        return frame

    def _open(self) -> None:
        self._container = open_container(self.path, self._content)
        try:
            self._stream = video_stream(self.path, self._container)
        except BaseException:
            self.close()
            raise
        self._codec = self._stream.codec_context
        self._tick = float(self._stream.time_base or 0) or 1 / av.time_base
        rates = (self._stream.average_rate, self._stream.guessed_rate)
        self._header_fps = next((float(rate) for rate in rates if rate and rate > 0), 25.0)

    def _end(self) -> float:
        """Seconds at which the last frame stops being shown."""
        return max(self._pts) * self._tick + (self.index.last_duration * self._tick or 1 / self.fps)

    def _cut(self) -> str:
        """How the file is truncated or damaged; '' if it is whole."""
        if self._error:
            after = f"after {len(self)} frames the decoder ends in: {self._error}"
            return f"truncated or damaged: {after}"
        if self._pts and (promised := self._missed_end()):
            return f"truncated: its frames end at {self._end():.2f} s of {promised:.2f} s"
        if self._break:
            return f"truncated or damaged: {self._break}"
        if self.index.torn:
            return "truncated or damaged: packets, or parts of them, are missing"
        if len(self) < self.index.pictures:
            return f"damaged: {len(self)} frames decode of {self.index.pictures} pictures"
        return ""

    def _missed_end(self) -> float:
        """Seconds at which the picture should end, if its frames end far earlier; else 0.

        The container's duration is that of its longest stream, so it applies to the picture only
        if no other stream lasts as long.
        """
        first, end = min(self._pts) * self._tick, self._end()
        whole = (self._container.duration or 0) / av.time_base
        if self.container.startswith("matroska"):  # where a stream's duration is libav's guess
            if own := tagged_end(self._stream):
                whole = min(own, whole or own)
        elif own := (self._stream.duration or 0) * self._tick:
            return first + own if end - first < _WHOLE_FROM * own else 0.0
        if end >= _WHOLE_FROM * whole or (not own and self._others_end >= _WHOLE_FROM * whole):
            return 0.0
        return whole

    @functools.cached_property
    def _others_end(self) -> float:
        """Seconds at which the last packet of the other streams ends."""
        end = 0.0
        with open_container(self.path, self._content) as container:
            others = [s for s in container.streams if s.index != self._stream.index]
            with contextlib.suppress(av.FFmpegError):
                for packet in packets_of(container, *others) if others else ():
                    if packet.pts is not None and packet.time_base:
                        last = (packet.pts + (packet.duration or 0)) * packet.time_base
                        end = max(end, float(last))
        return end

    def _check_usable(self) -> None:
        if self._cut() and not self._allow_truncated:
            if len(self._sizes) > 1:
                raise self._two_sizes(*self._sizes)
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
            try:
                return self._fill(len(wanted), self._jumped_to(wanted.tolist()))
            except (Surprise, av.FFmpegError) as surprise:
                self.index.doubt = str(surprise)
            self.scan()
            self._check_usable()
            self._check_range(wanted)
        return self._fill(len(wanted), self._read_through(wanted.tolist()))

    def _jumped_to(self, wanted: list[int]) -> Iterator[av.VideoFrame]:
        wanted_pts = [self._pts[i] for i in wanted]
        return frames_at(wanted_pts, self.index, self._packets(), self._codec)

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
        return upright(frame, self.path, self._reformatter)

    def _read_through(self, wanted: list[int]) -> Iterator[av.VideoFrame]:
        keep = set(wanted)
        frames = itertools.islice(self._in_order(), wanted[-1] + 1 if wanted else 0)
        return (frame for i, frame in enumerate(frames) if i in keep)

    def _in_order(self) -> Iterator[av.VideoFrame]:
        return iter(self._scanned) if self._scanned else self._all_frames()

    def _all_frames(self) -> Iterator[av.VideoFrame]:
        """Decodes from the start with a fresh decoder; an error ends the iteration and is kept."""
        self.close()
        self._open()
        try:
            for packet in itertools.chain(packets_of(self._container, self._stream), [None]):
                for frame in self._codec.decode(packet):
                    if frame.is_corrupt:
                        self._error = "a frame that libav marks as corrupt"
                        return
                    yield frame
        except av.FFmpegError as error:
            self._error = error.strerror or str(error)
