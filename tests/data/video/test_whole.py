"""Damaged files are reported or give as many frames as before; no frame is lost silently."""

import hashlib
import struct

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from video_files import TRICKY, decode_all, draw, write, write_tricky

from vlt.data.video.checksum import sha256_of, verify
from vlt.data.video.clips import ClipRequest, read_clip
from vlt.data.video.decode import Video
from vlt.data.video.errors import CannotOpen, ChangedFile, Truncated, VideoError
from vlt.data.video.whole import find_break

NAMES = ("closed_gop.mp4", "open_gop.mkv", "b_frames.avi", "vp8.webm", "transport.ts", "a.gif")
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """{name: path} of files of 60 frames, one for each container."""
    root = tmp_path_factory.mktemp("sound")
    paths = {name: write_tricky(root, name) for name in NAMES if name in TRICKY}
    paths["a.gif"] = write(root / "a.gif", draw(60, 32, 48), "gif", pix_fmt="rgb8")
    paths["fragments.mp4"] = write(
        root / "fragments.mp4", draw(), "libx264", {"g": "6"}, container_options=FRAGMENTS
    )
    return paths


def container(path):
    with Video(path) as video:
        return video.container


@pytest.mark.parametrize("name", [*NAMES, "fragments.mp4"])
def test_whole_files_have_no_break(sound, name):
    kind = container(sound[name])
    assert find_break(str(sound[name]), None, kind) == ""
    assert find_break("", sound[name].read_bytes(), kind) == ""


def test_a_chunk_that_is_too_long_is_told_by_its_end():
    chunk = b"JUNK" + struct.pack("<I", 10) + bytes(7)
    riff = b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"AVI " + chunk
    held = "what holds it at byte"
    assert find_break("", riff, "avi") == f"the chunk 'JUNK' ends at byte 30, {held} 27"
    assert find_break("", riff[:-1], "avi") == f"the RIFF ends at byte 27, {held} 26"


@pytest.mark.parametrize("name", [*NAMES, "fragments.mp4"])
def test_a_cut_anywhere_is_reported_or_takes_no_frame(sound, tmp_path, name):
    content, path = sound[name].read_bytes(), tmp_path / name
    ends = np.linspace(0, len(content) - 1, 24).astype(int).tolist()
    outcomes = []
    for end in [*ends, *range(len(content) - 12, len(content))]:
        path.write_bytes(content[:end])
        try:
            with Video(path) as video:
                assert len(video.read(range(0, len(video), 7))) == 9 and len(video) == 60, end
        except VideoError:
            outcomes.append(end)
    assert len(outcomes) > 20


# Whole pictures missing from a GIF file leave no trace.
@pytest.mark.parametrize("name", [name for name in NAMES if name != "a.gif"])
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_what_is_cut_out_of_the_middle_is_missed(sound, tmp_path, name, data):
    content = sound[name].read_bytes()
    start = data.draw(st.integers(0, len(content) - 200))
    end = data.draw(st.integers(start + 100, len(content)))
    # Whole packets missing from the start or end of a transport stream leave no trace.
    assume(name != "transport.ts" or (end - start) % 188)
    path = tmp_path / name
    path.write_bytes(content[:start] + content[end:])
    try:
        with Video(path) as video:
            for _ in video.frames([]):
                pass
            assert len(video) == 60
    except VideoError:
        pass


def test_allow_truncated_gives_the_frames_that_exist(sound, tmp_path):
    path = tmp_path / "cut.mkv"
    content = sound["open_gop.mkv"].read_bytes()
    path.write_bytes(content[: len(content) * 9 // 10])
    with pytest.raises(Truncated, match="cut.mkv: truncated"):
        Video(path)
    with Video(path, allow_truncated=True) as video:
        assert 40 < len(video) < 60
        assert len(video.read(range(len(video)))) == len(video)


def test_rubbish_behind_an_mp4_takes_nothing_from_it(sound, tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(sound["closed_gop.mp4"].read_bytes() + bytes(range(1, 100)))
    with Video(path) as video:
        assert len(video) == 60


def test_a_live_matroska_file_tells_no_sizes(sound):
    content = bytearray(sound["open_gop.mkv"].read_bytes())
    at = content.index(b"\x18\x53\x80\x67") + 4
    content[at : at + 8] = b"\x01" + 7 * b"\xff"
    assert find_break("", bytes(content), "matroska,webm") == ""


def test_a_block_of_no_track_is_found(sound):
    content = bytearray(sound["vp8.webm"].read_bytes())
    cluster = content.index(b"\x1f\x43\xb6\x75")
    block = content.index(b"\x81\x00\x00\x80", cluster)  # track 1, at 0 s, a keyframe
    content[block] = 0x85
    assert "is of track 5" in find_break("", bytes(content), "matroska,webm")


def test_a_block_that_passes_for_a_number_is_found(sound):
    content = bytearray(sound["vp8.webm"].read_bytes())
    block = content.index(b"\x81\x00\x00\x80", content.index(b"\x1f\x43\xb6\x75"))
    start = content.rindex(b"\xa3", 0, block)
    content[start] = 0xAB
    assert "the number at byte" in find_break("", bytes(content), "matroska,webm")


def test_an_avi_that_holds_fewer_pictures_than_it_says_is_found(sound):
    content = bytearray(sound["b_frames.avi"].read_bytes())
    at = content.index(b"avih") + 8 + 16
    assert struct.unpack_from("<I", content, at) == (60,)
    struct.pack_into("<I", content, at, 61)
    assert find_break("", bytes(content), "avi") == "it holds 60 pictures of 61"


@pytest.mark.parametrize("at", [0, 1000, -1])
def test_every_changed_byte_is_told_by_the_sum(sound, tmp_path, at):
    content = bytearray(sound["closed_gop.mp4"].read_bytes())
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    wanted = sha256_of(str(path))
    assert wanted == hashlib.sha256(content).hexdigest()
    request = ClipRequest(str(path), "linspace", 2, sha256=wanted.upper())
    assert len(read_clip(request)) == 2
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(ChangedFile) as caught:
        read_clip(request)
    found = hashlib.sha256(content).hexdigest()
    assert caught.value.path == str(path)
    assert found in caught.value.reason and wanted.upper() in caught.value.reason


def test_the_sum_of_no_file(tmp_path):
    with pytest.raises(CannotOpen, match=r"none.mp4: cannot be opened: no such file"):
        verify(str(tmp_path / "none.mp4"), "")


@pytest.mark.parametrize("name", ["closed_gop.mp4", "open_gop.mp4"])
def test_what_an_edit_list_cuts_off_is_not_missing(tmp_path, name):
    source, path = write_tricky(tmp_path, name), tmp_path / "edited.mp4"
    with av.open(str(source)) as container, av.open(str(path), "w") as out:
        stream = container.streams.video[0]
        copy = out.add_stream_from_template(stream)
        for packet in container.demux(stream):
            if packet.size:
                # Frames before 0 s stay in the file, and the muxer's edit list cuts them off.
                packet.pts, packet.dts = (
                    t - 10 * packet.duration for t in (packet.pts, packet.dts)
                )
                packet.stream = copy
                out.mux(packet)
    with Video(path) as video:
        assert video.index.discarded
        assert len(video) == 50
        assert np.array_equal(video.read([0, 49]), decode_all(source)[[10, 59]])
