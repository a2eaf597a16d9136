"""Seeking in a damaged stream gives the pixels of decoding it in order, or an error."""

import io

import av
import numpy as np
import pytest
from video_files import draw, write

from data_pipelines.check.inspection import Request, inspect
from vlt.data.video import errors
from vlt.data.video.containers import LENIENT_TAGS
from vlt.data.video.decode import Video

FRAMES = 36
CODECS = {
    "pyramid.mp4": ("libx264", {"x264-params": "keyint=12:min-keyint=6:bframes=3:b-pyramid=2"}),
    "open_gop.mkv": ("libx264", {"x264-params": "open-gop=1:keyint=12:min-keyint=6:bframes=3"}),
    "references.mp4": ("libx264", {"x264-params": "keyint=12:bframes=0:ref=4"}),
    "refresh.mp4": ("libx264", {"x264-params": "intra-refresh=1:keyint=12:bframes=3"}),
    "slices.mp4": ("libx264", {"x264-params": "keyint=12:bframes=2:cabac=0:slices=3"}),
    "hevc.mkv": ("libx265", {"x265-params": "keyint=12:bframes=3:open-gop=0:log-level=none"}),
    "vp8.webm": ("libvpx", {"lag-in-frames": "16", "g": "12", "deadline": "realtime"}),
    "vp9.webm": ("libvpx-vp9", {"lag-in-frames": "16", "g": "12", "deadline": "realtime"}),
    "mpeg4.mp4": ("mpeg4", {"g": "12"}),
    "jpeg.mov": ("mjpeg", {}),
    "ffv1.mkv": ("ffv1", {"g": "6"}),
}


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    """{name: bytes of an intact file}."""
    root, found = tmp_path_factory.mktemp("sound"), {}
    for name, (codec, options) in CODECS.items():
        pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        found[name] = write(root / name, draw(FRAMES), codec, options, pix_fmt).read_bytes()
    return found


def in_order(content, keep=False):
    """{time: pixels} of all frames that PyAV alone decodes in order, skipping errors.

    keep: holds frames until the end, so that none is decoded into the memory of an earlier one.
    """
    found, kept = {}, []
    with av.open(io.BytesIO(content), **LENIENT_TAGS) as container:
        stream = container.streams.best("video")
        codec = stream.codec_context
        codec.thread_type, codec.thread_count = "NONE", 1
        packets = [packet for packet in container.demux(stream) if packet.size]
        for packet in [*packets, None]:
            try:
                frames = codec.decode(packet)
            except av.FFmpegError:
                continue
            found |= {f.pts: f.to_ndarray(format="rgb24") for f in frames}
            kept += frames if keep else []
    return found


def damaged(content, seed):
    """Inverts 1 to 16 bits of the stream, but leaves the header at the front intact."""
    rng = np.random.default_rng(seed)
    out = bytearray(content)
    for at in rng.integers(1500, len(out) - 1500, int(2 ** rng.uniform(0, 4))):
        out[at] ^= 1 << int(rng.integers(8))
    return bytes(out), rng


def outcome(content, seed):
    """What seeking gives in a damaged copy: the "same" pixels, "other" ones, or an "error"."""
    copy, rng = damaged(content, seed)
    found = {}
    try:
        with Video("copy", content=copy) as video:
            for index in rng.integers(0, len(video), 3).tolist():
                found[video._pts[index]] = video.read([index])[0]
    except errors.VideoError:
        return "error"
    truth, again = in_order(copy), in_order(copy, keep=True)
    for time, image in found.items():
        expected = truth.get(time)
        defined = np.array_equal(expected, again.get(time))
        if (
            defined
            and not np.array_equal(image, expected)
            and not is_read_in_order(copy, time, image)
        ):
            return "other"
    return "same"


def is_read_in_order(content, time, image):
    """Whether `Video`, decoding from the start, also has this image at this time."""
    with Video("copy", content=content, allow_truncated=True) as video:
        video.scan()
        places = [i for i, pts in enumerate(video._pts) if pts == time]
        return bool(places) and np.array_equal(video.read(places)[0], image)


def differences(content, seeds):
    """Seeds for which seeking gives other pixels, and how many damaged copies are reported.

    A decoder may leave part of a damaged picture as its memory was: then decoding in order gives
    different pixels from time to time, and none are right. So two decodings must agree, and a
    difference must persist in three trials, each after different other work.
    """
    outcomes = {seed: outcome(content, seed) for seed in seeds}
    other = [seed for seed, found in outcomes.items() if found == "other"]
    for trial in range(3):
        kept = [in_order(damaged(content, trial)[0]) for _ in range(trial)]
        other = [seed for seed in other if outcome(content, seed) == "other"]
        del kept
    return other, [*outcomes.values()].count("error")


@pytest.mark.quick(4)
@pytest.mark.parametrize("name", CODECS)
def test_jumps_give_the_pixels_of_reading_in_order_or_an_error(contents, name):
    other, reported = differences(contents[name], range(30))
    assert other == []
    assert reported < 30


@pytest.mark.slow
@pytest.mark.parametrize("name", CODECS)
def test_many_jumps_give_the_pixels_of_reading_in_order_or_an_error(contents, name):
    other, _ = differences(contents[name], range(1000, 2000))
    # libav does not report parts of a damaged picture left as their memory was (HEVC), nor what a
    # decoder carries across a keyframe (the segment map of VP8).
    assert len(other) <= {"hevc.mkv": 10, "vp8.webm": 10}.get(name, 2), other


def test_a_corrupt_frame_is_an_error(tmp_path, contents):
    """However it is read; where truncation is allowed, the frames before it remain."""
    path = tmp_path / "a.mp4"
    whole = contents["references.mp4"]
    with Video("whole", content=whole) as video:
        broken = bytes(video.index.packets[15])
    path.write_bytes(whole.replace(broken, broken[:40] + bytes(len(broken) - 40)))
    reason = r"after 1[0-5] frames the decoder ends in: a frame that libav marks as corrupt"
    for indices in ([15], [20], [3, 20], range(FRAMES)):
        with Video(path) as video, pytest.raises(errors.Truncated, match=reason):
            video.read(indices)
    with Video(path) as video, pytest.raises(errors.Truncated, match=reason):
        list(video.frames([3]))
    with pytest.raises(errors.Truncated, match=reason):
        inspect(Request(str(path)))
    with Video("whole", content=whole) as video, Video(path, allow_truncated=True) as cut:
        assert np.array_equal(cut.read([0, 9, 7]), video.read([0, 9, 7]))
        with pytest.raises(errors.WrongFrames, match="frames 0 to 1[0-5] exist"):
            cut.read([20])
