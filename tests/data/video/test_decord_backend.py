"""decord returns PyAV's pixels, or the file is refused with a reason."""

import json
import sys

import numpy as np
import pytest
from video_files import decode_all, draw, write, write_tricky

from vlt.data.video import errors
from vlt.data.video.decode import decode

REFUSED = {
    "frame_numbers_h265.mp4": "open GOP",
    "derived_water_mpeg2.ts": "transport stream",
    "stream_of_water.webm": "counts 123 frames where 118 decode",
    "testsrc_av1.mkv": "cannot find video stream",
    "cricket_shot.gif": "decord fails",
    "derived_flower_tiny_16x16.mp4": "decord",
}


@pytest.mark.slow
def test_right_files_agree_and_wrong_ones_are_refused(shared):
    pytest.importorskip("decord")
    for video in json.loads((shared / "videos/MANIFEST.json").read_text())["videos"]:
        path, n = shared / "videos" / video["file"], video["frames"]
        if video["kind"] == "broken":
            continue
        indices = np.random.default_rng(n).integers(0, n, 8)
        if video["file"] in REFUSED:
            with pytest.raises(errors.UnsupportedByDecord, match=REFUSED[video["file"]]) as caught:
                decode(path, indices, backend="decord")
            assert caught.value.path == str(path)
        else:
            assert video.get("decord_random_access_equals_sequential", True) is not False
            assert np.array_equal(decode(path, indices, backend="decord"), decode(path, indices))


@pytest.mark.parametrize("name", ["open_gop.mp4", "open_gop_hevc.mp4", "b_frames.avi"])
def test_seeks_that_decord_gets_wrong_are_refused(tmp_path, name):
    decord = pytest.importorskip("decord")
    path = write_tricky(tmp_path, name)
    truth, indices = decode_all(path), [5, 13, 25, 38, 47, 51]
    reader = decord.VideoReader(str(path), num_threads=1)
    assert not np.array_equal(reader.get_batch(indices).asnumpy(), truth[indices])
    with pytest.raises(errors.UnsupportedByDecord, match="seeks to wrong frames"):
        decode(path, indices, backend="decord")


@pytest.mark.parametrize("name", ["closed_gop.mp4", "no_b_frames.avi"])
def test_seeks_that_decord_gets_right_are_allowed(tmp_path, name):
    pytest.importorskip("decord")
    path = write_tricky(tmp_path, name)
    indices = [50, 5, 5, 13, 38]
    assert np.array_equal(decode(path, indices, backend="decord"), decode(path, indices))


def test_broken_files_raise_the_same_errors(shared):
    with pytest.raises(errors.Truncated):
        decode(shared / "videos/broken_truncated_half.webm", [0], backend="decord")


def test_absent_decord_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(ImportError, match="pip install decord"):
        decode(write_tricky(tmp_path, "closed_gop.mp4"), [0], backend="decord")


def test_unknown_backend(tmp_path):
    with pytest.raises(ValueError, match="unknown backend 'decrod' .did you mean 'decord'"):
        decode(write_tricky(tmp_path, "closed_gop.mp4"), [0], backend="decrod")


# File, codec, pixel format, and whether decord gives PyAV's pixels, as measured.
FORMATS = [
    ("a.mp4", "libx264", "yuv420p", True),
    ("a.mp4", "libx264", "yuvj420p", True),
    ("a.mp4", "libx264", "yuv422p", True),
    ("a.mp4", "libx264", "yuv444p", True),
    ("a.mp4", "libx264", "yuv420p10le", False),
    ("a.mp4", "libx264", "yuv422p10le", False),
    ("a.mp4", "libx264rgb", "rgb24", True),
    ("a.mp4", "libx265", "yuv420p10le", False),
    ("a.mp4", "libx265", "yuv420p12le", False),
    ("a.webm", "libvpx-vp9", "yuv440p", False),
    ("a.mkv", "ffv1", "yuv410p", False),
    ("a.mkv", "ffv1", "gbrp10le", False),
    ("a.mkv", "ffv1", "bgra", True),
    ("a.mpg", "mpeg2video", "yuv420p", False),
]


@pytest.mark.parametrize(("name", "codec", "pixels", "right"), FORMATS)
def test_pixel_formats_agree_or_are_refused(tmp_path, name, codec, pixels, right):
    pytest.importorskip("decord")
    options = {"x265-params": "log-level=none:open-gop=0"} if codec == "libx265" else {}
    path = write(tmp_path / name, draw(12), codec, options, pixels)
    if right:
        assert np.array_equal(decode(path, [0, 7], backend="decord"), decode(path, [0, 7]))
    else:
        with pytest.raises(errors.UnsupportedByDecord, match=f"{pixels}|container mpeg") as caught:
            decode(path, [0, 7], backend="decord")
        assert caught.value.path == str(path)
