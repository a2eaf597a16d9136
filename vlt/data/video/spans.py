"""Time spans of a video file, each read as if it were the whole.

`SPAN_WORKER`, run by a `DecoderPool`, answers both requests of this file. It keeps the last video
open, so that the packets of a long one are listed once, and one that can only be read from its
start is decoded once, however many requests its spans take in order.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from vlt.data.video import errors
from vlt.data.video.checksum import sha256_of
from vlt.data.video.clips import WORKER, ClipRequest
from vlt.data.video.decode import Video
from vlt.data.video.onward import Onward
from vlt.data.video.sample import sample
from vlt.data.video.transform import apply_transform

SPAN_WORKER = (*WORKER[:-1], "vlt.data.video.span_worker")
NEEDED = "shots are found by PySceneDetect: pip install 'vlt[shots]'"
HELD_BYTES = 512 << 20  # of decoded frames at once: 20 of 4K

Span = tuple[float, float]  # start and end, in seconds from the first frame, the end not included


@dataclasses.dataclass(frozen=True)
class TimelineRequest:
    """Which file to examine. shots: whether to find its cuts, which decodes all of it."""

    path: str
    shots: bool = False
    allow_truncated: bool = False


@dataclasses.dataclass(frozen=True)
class Timeline:
    """How long a file lasts, and when its shots begin.

    Attributes:
      frames: number of frames that decode.
      duration: seconds from the first frame's start to the last one's end.
      cuts: seconds at which a new shot begins, the first shot left out.
      sha256: checksum of the file's bytes.
    """

    frames: int
    duration: float
    cuts: tuple[float, ...]
    sha256: str


@dataclasses.dataclass(frozen=True)
class SpansRequest(ClipRequest):
    """Asks for a clip of each of several spans; all other fields are as for one clip.

    A span that contains no frame shows the one before it.

    later: spans of the next requests that begin before all of these end. Their frames are kept
    where the video could not be read twice without decoding it again.
    """

    spans: Sequence[Span] = ()
    later: Sequence[Span] = ()

    @classmethod
    def of(cls, look: ClipRequest, spans: Sequence[Span], **others: Any) -> "SpansRequest":
        """Asks for spans as `look` asks for a clip. others: fields that differ, or `later`."""
        return cls(**(vars(look) | others), spans=spans)


def read_timeline(request: TimelineRequest) -> np.ndarray:
    """A `Timeline` as JSON, uint8 [n]. Raises: errors.VideoError; ImportError if shots are
    asked for without PySceneDetect."""
    onward = _open(request.path, request.allow_truncated, _stamp(request.path))
    onward.restart()
    video = onward.video
    cuts = _cuts(video) if request.shots else ()
    found = Timeline(len(video), video.info().duration, cuts, sha256_of(request.path))
    return np.frombuffer(json.dumps(dataclasses.asdict(found)).encode(), np.uint8)


def timeline_of(answer: np.ndarray, path: str) -> Timeline:
    """Parses what `read_timeline` answered, in a process that has read an untrusted file.

    Raises: errors.DecoderDied if it is not a timeline.
    """
    try:
        told = json.loads(answer.tobytes())
        cuts = tuple(float(cut) for cut in told["cuts"])
        found = Timeline(int(told["frames"]), float(told["duration"]), cuts, str(told["sha256"]))
    except (ValueError, KeyError, TypeError) as error:
        raise errors.DecoderDied(path, f"its decoder gave a malformed answer: {error}") from None
    if found.frames < 1 or not 0 <= found.duration < float("inf"):
        raise errors.DecoderDied(path, "its decoder gave a malformed answer")
    return found


def read_spans(request: SpansRequest) -> np.ndarray:
    """Samples, decodes and transforms each span: uint8 RGB [spans, t, h, w, 3].

    Raises: errors.VideoError, ValueError for a request that no file can satisfy.
    """
    onward = _open(request.path, request.allow_truncated, _stamp(request.path))
    while True:
        count = len(onward.video)
        try:
            if onward.video.index.doubt and request.backend == "pyav":
                return _read_onward(onward, request)
            return _read_in_groups(onward.video, request)
        except errors.WrongFrames:
            onward.restart()
            # Reading may show, once, that fewer frames exist than the packets promised.
            if len(onward.video) == count:
                raise


def _read_in_groups(video: Video, request: SpansRequest) -> np.ndarray:
    """Reads spans in groups: overlapping ones share decoded frames, as far as memory allows."""
    taken = _taken(video, request, request.spans)
    clips: list[np.ndarray] = []
    group = 1
    while len(clips) < len(taken):
        now = taken[len(clips) : len(clips) + group]
        frames = video.read(np.concatenate(now).tolist(), backend=request.backend)
        clips += [
            apply_transform(request.transform, clip, request.seed)
            for clip in np.split(frames, len(now))
        ]
        group = max(1, HELD_BYTES * len(now) // max(1, frames.nbytes))
    return np.stack(clips)


def _read_onward(onward: Onward, request: SpansRequest) -> np.ndarray:
    """Reads spans of a video that can only be read from its start: in one pass, or, where they
    overlap so far that their frames take too much memory, in several."""
    spans, count = (*request.spans, *request.later), len(request.spans)
    taken = _taken(onward.video, request, spans)
    clips: dict[int, np.ndarray] = {}
    while len(clips) < count:
        open_ = {number: x for number, x in enumerate(taken) if number not in clips}
        last = max(int(x.max()) for number, x in open_.items() if number < count)
        wanted = np.unique(np.concatenate(list(open_.values())))
        wanted = wanted[wanted <= last]
        held: dict[int, np.ndarray] = {}
        for index, frame in zip(wanted.tolist(), onward.frames(wanted.tolist()), strict=True):
            held[index] = frame
            for number in [n for n, x in open_.items() if n < count and x.max() == index]:
                clip = np.stack([held[i] for i in open_.pop(number).tolist()])
                clips[number] = apply_transform(request.transform, clip, request.seed)
            if len(open_) > 1 and len(held) * frame.nbytes > HELD_BYTES:
                open_.popitem()  # the last of them, in the next pass
            needed = {i for x in open_.values() for i in x.tolist()}
            held = {i: image for i, image in held.items() if i in needed}
            if min(open_, default=count) >= count:
                break
        onward.held = held
    return np.stack([clips[number] for number in range(count)])


def _taken(video: Video, request: SpansRequest, spans: Sequence[Span]) -> list[np.ndarray]:
    """The frames of each span that the sampler takes."""
    times, fps = video.timestamps(), video.fps  # both go through all frames of the file
    times -= times[0]
    return [_indices(times, fps, request, span) for span in spans]


def _indices(times: np.ndarray, fps: float, request: SpansRequest, span: Span) -> np.ndarray:
    """The frames that the sampler takes from a span, the last repeated if they are too few."""
    first, after = np.searchsorted(times, span)
    if first >= after:
        first, after = max(first - 1, 0), max(first, 1)
    found = first + sample(
        request.sampler,
        int(after - first),
        request.frames,
        rng=np.random.default_rng((request.seed, 1)),
        fps=fps,
    )
    return np.pad(found, (0, request.frames - len(found)), mode="edge")


def _stamp(path: str) -> tuple[int, int]:
    """Modification time and size, which change when a file does."""
    try:
        found = os.stat(path)
    except OSError:
        return (0, 0)  # opening it reports what is wrong
    return (found.st_mtime_ns, found.st_size)


@functools.lru_cache(maxsize=1)
def _open(path: str, allow_truncated: bool, stamp: tuple[int, int]) -> Onward:
    return Onward(Video(path, allow_truncated=allow_truncated))


def _cuts(video: Video) -> tuple[float, ...]:
    """Seconds at which PySceneDetect's content detector sees a new shot begin."""
    try:
        return _detected(video)
    except errors.WrongFrames:  # once, where the packets promised other frames
        return _detected(video)


def _detected(video: Video) -> tuple[float, ...]:
    try:
        from scenedetect import ContentDetector, FrameTimecode
    except ImportError as error:
        raise ImportError(NEEDED) from error
    detector = ContentDetector()
    times, found = video.timestamps(), []
    for index, frame in enumerate(video.frames(range(len(video)))):
        bgr = np.ascontiguousarray(frame[..., ::-1])
        found += detector.process_frame(FrameTimecode(index, video.fps), bgr)
    return tuple(float(times[cut.frame_num] - times[0]) for cut in found)
