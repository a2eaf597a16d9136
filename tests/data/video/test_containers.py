"""Which files are opened as videos, and that no other file is read."""

import os
import resource
import socket
import struct
import time
import zlib

import av
import numpy as np
import pytest
from av.stream import Disposition
from video_files import draw, write, write_lossless

from vlt.data.video import errors
from vlt.data.video.clips import ClipRequest, read_clip
from vlt.data.video.containers import check_size
from vlt.data.video.decode import Video, decode, probe

FRAMES = draw(12, 32, 64)

PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{0}\n#EXT-X-ENDLIST\n"
SCRIPTS = {
    "hls": (PLAYLIST, "a playlist"),
    "master": ("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{0}\n", "a playlist"),
    "pls": ("[playlist]\nFile1={0}\nNumberOfEntries=1\n", "a playlist"),
    "concat": ("ffconcat version 1.0\nfile '{0}'\n", "a script that names other files"),
    "sdp": (
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        "m=video {1} RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "a session description",
    ),
    "dash": (
        '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static">'
        "<Period><AdaptationSet><Representation><BaseURL>{0}</BaseURL></Representation>"
        "</AdaptationSet></Period></MPD>\n",
        "a manifest or a page",
    ),
    "smil": ("<smil><body><video src='{0}'/></body></smil>", "a manifest or a page"),
    "vobsub": ("# VobSub index file, v7 (do not modify this line!)\n", "its format is not"),
    "text": ("{0}\n" * 5, "cannot be opened|not one that"),
}
SUFFIXES = {"hls": ".m3u8", "sdp": ".sdp", "dash": ".mpd", "vobsub": ".idx", "text": ".txt"}


@pytest.fixture
def target(tmp_path):
    """An intact video that no other file may read; its access time would reveal a read."""
    path = write_lossless(tmp_path, "png.mov", FRAMES)
    os.utime(path, (1, 1))
    yield path
    assert os.stat(path).st_atime == 1


def free_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_names_other_files_is_refused(tmp_path, target, name):
    text, kind = SCRIPTS[name]
    content = text.format(target, free_port()).encode()
    start = time.monotonic()
    for suffix in (".mp4", SUFFIXES.get(name, ".txt")):
        path = tmp_path / f"v{suffix}"
        path.write_bytes(content)
        with pytest.raises((errors.NotAVideo, errors.CannotOpen), match=kind) as caught:
            probe(path)
        assert caught.value.path == str(path)
    with pytest.raises((errors.NotAVideo, errors.CannotOpen), match=kind):
        Video("record", content=content)
    assert time.monotonic() - start < 5


def test_names_of_protocols_and_patterns_are_names_of_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = write_lossless(tmp_path, "png.mov", FRAMES).read_bytes()
    names = ["-a.mov", "concat:a.mov|b.mov", "subfile,,start,0,end,9,,:a.mov", "pipe:0", "http:x"]
    names += ["data:a", "file:a.mov", "clip%03d.mov", "*.mov", "tcp:a:1?listen", "fd:3", "a\nb.mov"]
    for name in names:
        (tmp_path / name).write_bytes(whole)
        assert np.array_equal(decode(name, range(12)), FRAMES), name
    for name in (
        "concat:png.mov",
        "subfile,,start,0,end,0,,:png.mov",
        "http://127.0.0.1/a",
        "cache:png.mov",
    ):
        with pytest.raises(errors.CannotOpen, match="no such file"):
            decode(name, [0])


def test_decord_gets_no_protocol_either(tmp_path, monkeypatch):
    pytest.importorskip("decord")
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "http:a.mp4", draw(10))
    assert np.array_equal(decode("http:a.mp4", [3], backend="decord"), decode(path, [3]))


def boxes_around(content, at, start=0, end=None):
    """Offsets of the boxes of an MP4 file that contain the byte `at`, outermost first."""
    end = len(content) if end is None else end
    while start < end:
        size, kind = struct.unpack(">I4s", content[start : start + 8])
        if start <= at < start + size:
            yield start
            if kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
                yield from boxes_around(content, at, start + 8, start + size)
            elif kind == b"dref":
                yield start + 16
            return
        start += size


def elsewhere(content, target):
    """The movie, with its track's data in another file that an alias record names."""
    name = os.fsencode(target)
    name += b" " * (len(name) % 2)
    record = bytes(10) + b"\0" * 28 + bytes(12) + b"\1a" + bytes(62) + bytes(16)
    record += struct.pack(">HH", 0xFFFF, 0xFFFF) + bytes(16)
    record += struct.pack(">HH", 2, len(name)) + name + struct.pack(">HH", 0xFFFF, 0)
    box = struct.pack(">I4sI", 12 + len(record), b"alis", 0) + record
    at = content.index(b"dref") + 12
    (old,) = struct.unpack(">I", content[at : at + 4])
    out = bytearray(content[:at] + box + content[at + old :])
    for start in list(boxes_around(content, at))[:-1]:
        (size,) = struct.unpack(">I", content[start : start + 4])
        out[start : start + 4] = struct.pack(">I", size + len(box) - old)
    return bytes(out)


def test_a_movie_whose_data_lie_elsewhere_reads_nothing(tmp_path, target):
    content = write(tmp_path / "sound.mp4", draw(10)).read_bytes()
    assert content.index(b"mdat") < content.index(b"moov")  # so that no offset changes
    path = tmp_path / "elsewhere.mp4"
    path.write_bytes(elsewhere(content, target))
    with pytest.raises(errors.VideoError):
        decode(path, [0])
    path.write_bytes(elsewhere(content, target).replace(b"alis", b"mine"))
    assert probe(path).frames == 10  # an unknown kind of entry: its own data


def test_pipes_devices_and_sockets_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket.mp4"))
        cases = {tmp_path / "pipe.mp4": "a named pipe", tmp_path / "socket.mp4": "a socket"}
        for path, kind in (cases | {"/dev/zero": "a device", tmp_path: "no such file"}).items():
            for request in (
                ClipRequest(str(path), "linspace", 2, sha256=s) for s in ("", "0" * 64)
            ):
                with pytest.raises(errors.CannotOpen, match=f"cannot be opened: .*{kind}"):
                    read_clip(request)


def png_video(tmp_path, height, width):
    """A video whose single PNG frame claims this size."""
    content = write_lossless(tmp_path, "png.mov", draw(1, 16, 16)).read_bytes()
    at = content.index(b"IHDR")
    header = b"IHDR" + struct.pack(">II", width, height) + content[at + 12 : at + 17]
    return content[:at] + header + struct.pack(">I", zlib.crc32(header)) + content[at + 21 :]


def test_a_frame_of_too_many_pixels_is_not_decoded(tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for size in ((20_000, 20_000), (65_535, 65_535)):
        with pytest.raises(errors.VideoError):
            Video("bomb.mov", content=png_video(tmp_path, *size)).read([0])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KB


@pytest.mark.parametrize(
    ("size", "cause"),
    [((20_000, 20_000), "at most 67,108,864"), ((4000, 16), "one side may be 100 times the other")],
)
def test_sizes_out_of_bounds_are_named(size, cause):
    with pytest.raises(errors.WrongFrames, match=rf"^a: its frames have {size[0]:,} x .*{cause}"):
        check_size("a", *size)
    check_size("a", 4320, 7680)
    check_size("a", 1600, 16)


def with_cover(tmp_path):
    """A video with a cover picture."""
    path = tmp_path / "cover.mp4"
    with av.open(str(path), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.height, cover.width, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        film = container.add_stream("libx264rgb", rate=25, options={"qp": "0"})
        film.height, film.width, film.pix_fmt = 32, 64, "rgb24"
        picture = av.VideoFrame.from_ndarray(draw(1, 64, 64)[0], format="rgb24")
        container.mux(cover.encode(picture.reformat(format="yuvj420p")))
        container.mux(cover.encode(None))
        for frame in FRAMES:
            container.mux(film.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(film.encode(None))
    return path


def test_a_cover_picture_is_not_the_film(tmp_path):
    path = with_cover(tmp_path)
    with av.open(str(path)) as container:
        assert any(s.disposition & Disposition.attached_pic for s in container.streams.video)
    assert np.array_equal(decode(path, range(12)), FRAMES)
