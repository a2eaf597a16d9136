"""A packet index: which compressed packet shows which frame, learned without decoding."""

import bisect
import dataclasses
import itertools
from collections.abc import Iterator

import av
from av import logging
from av.container import InputContainer

from vlt.data.video.containers import packets_of

# Errors that libav logs are counted only while PyAV listens; none of them is printed.
if logging.get_level() is None:
    logging.set_level(logging.PANIC)

# Packets up to this size, and decoded frames that were counted, stay in memory; of larger files
# they are read a second time.
KEPT_BYTES = 64 << 20

_CONTAINERS = ("mov,", "matroska,", "avi")
_CODECS = {
    *("h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mpeg4"),
    *("ffv1", "png", "mjpeg", "qtrle", "rawvideo", "huffyuv", "utvideo"),
}
# Codecs whose packets cannot be told apart by their times, but give one frame each.
_ORDERLY_CODECS = {"gif", "mpeg1video", "mpeg2video"}
# An MPEG-4 packet this short says "repeat the last frame" and yields none of its own.
_MPEG4_EMPTY_PACKET = 8
# What an MPEG-4 picture begins with; packed B-frames share a packet, and an empty one follows.
_MPEG4_PICTURE = b"\0\0\1\xb6"


class Surprise(Exception):
    """A frame came out that the index did not promise, a promised one did not, or libav met an
    error, after which its output may depend on what was decoded before."""


@dataclasses.dataclass
class PacketIndex:
    """The packets of one video stream.

    Attributes:
      pts: presentation times of the shown packets, ascending; frame i has `pts[i]`.
      place: pts of a shown packet -> its place in decoding order.
      keyframes: places of the keyframes.
      keyframe_pts: their presentation times.
      last_duration: duration of the packet shown last, in the stream's time base.
      packets: the packets in decoding order, or None where they are too large to keep.
      open_gop: whether a picture is shown before a keyframe that precedes it in decoding order.
      pictures: how many frames the packets promise; 0 if they do not say.
      discarded: whether an edit list cuts packets off.
      durations: those of the shown packets.
      torn: whether packets, or parts of them, are missing.
      doubt: why the index cannot be trusted to describe the frames ('' if it can).
    """

    pts: list[int] = dataclasses.field(default_factory=list)
    place: dict[int, int] = dataclasses.field(default_factory=dict)
    keyframes: list[int] = dataclasses.field(default_factory=list)
    keyframe_pts: list[int] = dataclasses.field(default_factory=list)
    last_duration: int = 0
    packets: list[av.Packet] | None = dataclasses.field(default_factory=list)
    open_gop: bool = False
    pictures: int = 0
    discarded: bool = False
    durations: set[int] = dataclasses.field(default_factory=set)
    torn: bool = False
    doubt: str = ""

    def start(self, pts: int) -> int:
        """Place of the keyframe from which decoding shows the frame at `pts`.

        A picture shown before the keyframe that precedes it in decoding order needs the keyframe
        before that one.
        """
        i = bisect.bisect_right(self.keyframes, self.place[pts]) - 1
        while i > 0 and self.keyframe_pts[i] > pts:
            i -= 1
        return self.keyframes[i]

    def _add(self, at: int, packet: av.Packet, codec: str) -> None:
        pts = packet.pts
        if pts is None:
            self.doubt = self.doubt or "packets without a timestamp"
            return
        if packet.is_corrupt:
            self.torn, self.doubt = True, self.doubt or "corrupt packets"
        is_empty = codec == "mpeg4" and packet.size <= _MPEG4_EMPTY_PACKET
        if is_empty:
            self.doubt = self.doubt or "MPEG-4 packets without a picture"
        if packet.is_keyframe:
            self.keyframes.append(at)
            self.keyframe_pts.append(pts)
        if packet.is_discard:
            self.discarded = True
        if packet.is_discard or not _is_shown(packet, codec):
            return
        if codec == "mpeg4":
            self.pictures += bytes(packet).count(_MPEG4_PICTURE) - is_empty
        else:
            self.pictures += 1
        if pts in self.place:
            self.doubt = self.doubt or "two packets with one timestamp"
        if not self.pts or pts > self.pts[-1]:
            self.last_duration = packet.duration or 0
        if self.keyframe_pts and pts < self.keyframe_pts[-1]:
            self.open_gop = True
        self.durations.add(packet.duration or 0)
        self.place[pts] = at
        self.pts.append(pts)


def build_index(container: InputContainer, stream: av.VideoStream) -> PacketIndex:
    """Demuxes the stream to its end; the container is then spent."""
    index = PacketIndex(doubt=_known_doubt(container, stream))
    codec = stream.codec_context.name
    total, count = 0, 0
    try:
        for count, packet in enumerate(packets_of(container, stream), 1):
            index._add(count - 1, packet, codec)
            total += packet.size
            if total > KEPT_BYTES:
                index.packets = None
            elif index.packets is not None:
                index.packets.append(packet)
    except av.FFmpegError as error:
        index.doubt = index.doubt or f"the demuxer ends in an error: {error}"
    index.pts.sort()
    starts_whole = index.keyframes[:1] == [0] and index.keyframe_pts[:1] <= index.pts[:1]
    if not starts_whole:
        index.doubt = index.doubt or "frames before the first keyframe"
    same_times = len(index.place) < len(index.pts)  # e.g. the two fields of a frame
    one_each = codec in _CODECS and starts_whole and not same_times
    if not one_each and codec not in _ORDERLY_CODECS:
        index.pictures = 0
    # If two pictures share the last packet of a cut stream, one of them does not come out.
    index.pictures = min(index.pictures, count)
    index.torn |= _cuts_off_wrongly(index) or _falls_short(index, stream)
    return index


def _falls_short(index: PacketIndex, stream: av.VideoStream) -> bool:
    """Whether there are fewer packets than the header lists, and no edit list explains it: those
    left do not last as long as the header says, or the header's duration makes no sense."""
    if not 0 < len(index.pts) < stream.frames:
        return False
    if not stream.duration or index.last_duration > stream.duration:
        return True
    lasts = index.pts[-1] - index.pts[0] + index.last_duration
    return lasts + 2 * index.last_duration < stream.duration


def _cuts_off_wrongly(index: PacketIndex) -> bool:
    """Whether an edit list cuts off a packet that should be shown, because its time is damaged.

    This can be told only where all packets last equally long: those shown then leave a gap.
    """
    if not (index.pts and index.discarded and index.durations == {index.last_duration}):
        return False
    return index.pts[-1] - index.pts[0] != index.last_duration * (len(index.pts) - 1)


def frames_at(
    wanted: list[int], index: PacketIndex, packets: Iterator[av.Packet], codec: av.VideoCodecContext
) -> Iterator[av.VideoFrame]:
    """The frames at the presentation times `wanted` (ascending), decoding from keyframes.

    Nothing in between is skipped, not even frames that no other is said to depend on: reading in
    order, damage in them would show, in themselves or in later frames.

    `packets` are all packets of the stream, `codec` a decoder that has seen none of them.

    Raises: Surprise when the decoder's timestamps are not those of the index, or it meets an error.
    """
    ready: dict[int, av.VideoFrame] = {}
    missing = set(wanted)
    at, last = 0, None
    errors = logged_errors()
    for pts in wanted:
        start = index.start(pts)
        if pts in missing and start > at:
            codec.flush_buffers()
            _drop(packets, start - at)
            at, last = start, None
        while pts in missing:
            packet = next(packets, None)
            at += 1
            for frame in codec.decode(packet):
                if frame.is_corrupt:
                    raise Surprise(f"libav marks the frame at {frame.pts} as corrupt")
                if frame.pts not in index.place or (last is not None and frame.pts <= last):
                    raise Surprise(f"a frame at {frame.pts} came out after that at {last}")
                last = frame.pts
                if last in missing:
                    missing.remove(last)
                    ready[last] = frame
            if logged_errors() != errors:
                raise Surprise("libav logged an error")
            if packet is None and pts in missing:
                raise Surprise(f"no frame at {pts} came out")
        yield ready.pop(pts)


def logged_errors() -> int:
    """How many errors libav has logged in this process."""
    count, _ = logging.get_last_error()
    return count


def _drop(packets: Iterator[av.Packet], count: int) -> None:
    next(itertools.islice(packets, count, count), None)


def _known_doubt(container: InputContainer, stream: av.VideoStream) -> str:
    codec = stream.codec_context
    if not container.format.name.startswith(_CONTAINERS):
        return f"container {container.format.name}"
    if codec.name not in _CODECS:
        return f"codec {codec.name}"
    if codec.has_b_frames and (container.format.name == "avi" or codec.name == "mpeg4"):
        return "B-frames whose timestamps are guesses"
    return ""


def _is_shown(packet: av.Packet, codec: str) -> bool:
    """False for the pictures that VP8 and VP9 decode and never show (alt-ref frames)."""
    if codec == "vp8":
        return bool(memoryview(packet)[0] & 0x10)
    if codec != "vp9":
        return True
    header, trailer = memoryview(packet)[0], memoryview(packet)[-1]
    is_superframe = trailer & 0xE0 == 0xC0
    profile = (header >> 5 & 1) | (header >> 3 & 2)
    flags = header << 1 if profile == 3 else header
    shows_existing, shown = flags & 0x08, flags & 0x02
    return bool(is_superframe or shows_existing or shown)
