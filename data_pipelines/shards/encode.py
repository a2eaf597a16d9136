"""Encodes one video as a record of a shard: a re-encoded clip, or JPEG frames.

Kept are all frames; or those shown at 0, 1/fps, 2/fps ... seconds, if the video has more than `fps`
per second; or, for JPEG frames only, `frames` of them, the centres of equal segments.
"""

import dataclasses
import io
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image

from vlt.data.video.checksum import verify
from vlt.data.video.decode import Video
from vlt.data.video.errors import WrongFrames
from vlt.data.video.sample import sample
from vlt.data.video.shards import pack_record

CLOCK = 90_000  # ticks per second of a clip's timestamps
# x264's macroblock-tree rate control is not repeatable in its AVX-512 code: with it, hardly two of
# ten runs over one file gave the same bytes (with asm=avx2 all did). Files are as large without it.
REPEATABLE = {"x264-params": "mbtree=0"}


@dataclasses.dataclass(frozen=True)
class Clips:
    """Re-encoded clips: H.264 in MP4.

    Attributes:
      short_side: in pixels; no frame is enlarged.
      fps: most frames per second; 0 keeps every frame at its time.
      keyframe_interval: most frames from one keyframe to the next.
      crf: x264's constant rate factor; less is better, 0 is lossless.
    """

    short_side: int = 256
    fps: float = 0.0
    keyframe_interval: int = 12
    crf: int = 20


@dataclasses.dataclass(frozen=True)
class Frames:
    """JPEG frames.

    Attributes:
      short_side: in pixels; no frame is enlarged.
      fps: most frames per second; 0 keeps every frame.
      frames: most frames of a video; 0 for any number.
      quality: JPEG quality, 1 to 95.
    """

    short_side: int = 256
    fps: float = 0.0
    frames: int = 0
    quality: int = 90


FORMS: dict[str, type[Clips] | type[Frames]] = {"clips": Clips, "frames": Frames}


@dataclasses.dataclass(frozen=True)
class Request:
    """Which file to encode, and how.

    path: the file. name: its name in the record. sha256: the sum that its bytes must have, or ''.
    run: name of the run that makes the record.
    """

    path: str
    name: str
    sha256: str
    run: str
    form: Clips | Frames


def request_of(form: Mapping[str, Any], **fields: str) -> Request:
    """The request with these fields; the fields of `form` tell which form it is."""
    kind = next(k for k in FORMS.values() if form.keys() == k.__dataclass_fields__.keys())
    return Request(form=kind(**form), **fields)


def check_form(form: Clips | Frames) -> None:
    """Raises ValueError naming an option that is out of bounds, or fps and frames together."""
    least = {"short_side": 16, "keyframe_interval": 1, "quality": 1}
    most = {"quality": 95, "crf": 51}
    for name, value in dataclasses.asdict(form).items():
        low, high = least.get(name, 0), most.get(name)
        if value < low or (high is not None and value > high):
            rule = f">= {low}" if high is None else f"between {low} and {high}"
            raise ValueError(f"--{name.replace('_', '-')} must be {rule}, got {value}")
    if isinstance(form, Frames) and form.fps and form.frames:
        raise ValueError(f"--fps={form.fps} and --frames={form.frames}: give one of them")


def encode(request: Request) -> np.ndarray:
    """The record's bytes: uint8 [n], the same for the same file and request.

    Raises: errors.VideoError: the file is broken anywhere.
    """
    if request.sha256:
        verify(request.path, request.sha256)
    with Video(request.path) as video:
        try:
            content = _content(video, request.form)
        except WrongFrames:
            # Reading may reveal, once, that the frames are not those the packets promised.
            content = _content(video, request.form)
    record = {"run": request.run, "video": request.name, **content}
    return np.frombuffer(pack_record(record), np.uint8)


def _content(video: Video, form: Clips | Frames) -> dict[str, Any]:
    indices, times, fps = kept_frames(video, form)
    images = _resized(video.frames(indices.tolist()), form.short_side)
    if isinstance(form, Clips):
        return {"content": _encode_clip(images, times, form)}
    return {"frames": [_encode_jpeg(image, form.quality) for image in images], "fps": fps}


def kept_frames(video: Video, form: Clips | Frames) -> tuple[np.ndarray, list[Fraction], float]:
    """Indices (ascending) of the frames to keep, seconds at which each is shown, and their rate."""
    count, shown = len(video), np.maximum.accumulate(video.timestamps())
    shown -= shown[0]
    if isinstance(form, Frames) and form.frames:
        kept = min(count, form.frames)
        rng = np.random.default_rng(0)  # this sampler draws nothing from it
        indices, fps = sample("segment_centre", count, kept, rng=rng), video.fps * kept / count
    elif form.fps and form.fps < video.fps:
        rate = Fraction(form.fps).limit_denominator(1001)
        wanted = np.arange(max(1, round(video.info().duration * form.fps))) / float(rate)
        indices, fps = np.searchsorted(shown, wanted + 1e-6, "right") - 1, form.fps
        return indices, [i / rate for i in range(len(indices))], fps
    else:
        indices, fps = np.arange(count), video.fps
    return indices, [Fraction(round(shown[i] * CLOCK), CLOCK) for i in indices], fps


def _resized(frames: Iterator[np.ndarray], short_side: int) -> Iterator[Image.Image]:
    for frame in frames:
        height, width = frame.shape[:2]
        short = min(height, width)
        if short > short_side:  # like the step `resize` of vlt.data.video.transform
            height, width = (int(short_side * side / short) for side in (height, width))
        image = Image.fromarray(frame)
        yield image.resize((width, height), Image.Resampling.BICUBIC)


def _encode_jpeg(image: Image.Image, quality: int) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def _encode_clip(images: Iterator[Image.Image], times: list[Fraction], form: Clips) -> bytes:
    out, reformatter = io.BytesIO(), VideoReformatter()
    first = next(images)
    base = Fraction(1, CLOCK)
    rate = Fraction(len(times) - 1) / (times[-1] or 1) or Fraction(25)
    options = {"crf": str(form.crf), "g": str(form.keyframe_interval), **REPEATABLE}
    with av.open(out, "w", format="mp4", container_options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=rate.limit_denominator(1001), options=options)
        # H.264 with colours at half resolution needs even sides.
        stream.width, stream.height = (max(2, side // 2 * 2) for side in first.size)
        stream.pix_fmt, stream.codec_context.thread_count = "yuv420p", 1
        stream.codec_context.thread_type = "NONE"
        stream.codec_context.time_base = base
        last = -1
        for time, image in zip(times, _chain(first, images), strict=True):
            image = image.resize((stream.width, stream.height), Image.Resampling.BICUBIC)
            frame = av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")
            frame = reformatter.reformat(frame, format="yuv420p", threads=1)
            last = max(last + 1, round(time * CLOCK))
            frame.pts, frame.time_base = last, base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return out.getvalue()


def _chain(first: Image.Image, rest: Iterator[Image.Image]) -> Iterator[Image.Image]:
    yield first
    yield from rest
