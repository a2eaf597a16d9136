"""Every frame that `decode` returns is the one that plain sequential decoding yields."""

import json
import pathlib
import re
import wave
from fractions import Fraction

import av
import numpy as np
import pytest
from helpers import run_python
from PIL import Image
from video_files import LOSSLESS, TRICKY, decode_all, draw, write, write_lossless, write_tricky

from vlt.data.video import decode as decode_module
from vlt.data.video import errors, index
from vlt.data.video.decode import Video, decode, probe


def manifest(shared: pathlib.Path) -> list[dict]:
    return json.loads((shared / "videos/MANIFEST.json").read_text())["videos"]


def picks(n: int) -> dict[str, list[int]]:
    rng = np.random.default_rng(n)
    return {
        "ends": [0, n - 1],
        "uniform": np.linspace(0, n - 1, 8).round().astype(int).tolist(),
        "random": rng.integers(0, n, 8).tolist(),
    }


def assert_same_frames(path: pathlib.Path, truth: np.ndarray) -> None:
    assert probe(path).frames == len(truth), path
    for kind, indices in picks(len(truth)).items():
        assert np.array_equal(decode(path, indices), truth[indices]), (path, kind, indices)


def sound(shared: pathlib.Path) -> list[dict]:
    return [video for video in manifest(shared) if video["kind"] != "broken"]


def assert_as_sequential(path: pathlib.Path, frames: int) -> None:
    truth = decode_all(path)
    assert len(truth) == frames
    assert_same_frames(path, truth)


def test_the_smallest_of_each_container_and_codec_equal_sequential_decoding(shared):
    def pixels(video):
        return video["width"] * video["height"] * video["frames"]

    several = sorted((v for v in sound(shared) if v["frames"] > 3), key=pixels, reverse=True)
    smallest = {(video["container"], video["codec"]): video for video in several}
    assert len(smallest) == 10
    for video in smallest.values():
        assert_as_sequential(shared / "videos" / video["file"], video["frames"])


@pytest.mark.slow
def test_sound_files_equal_sequential_decoding(shared):
    assert len(sound(shared)) == 29
    for video in sound(shared):
        assert_as_sequential(shared / "videos" / video["file"], video["frames"])


@pytest.mark.parametrize("name", TRICKY)
def test_tricky_files_equal_sequential_decoding(tmp_path, name):
    path = write_tricky(tmp_path, name)
    truth = decode_all(path)
    assert len(truth) == 60
    assert_same_frames(path, truth)
    for i in range(0, 60, 7):
        assert np.array_equal(decode(path, [i]), truth[[i]]), i


@pytest.mark.smoke
@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_files_give_back_what_was_drawn(tmp_path, name):
    frames = draw(25, 32, 32)
    path = write_lossless(tmp_path, name, frames)
    assert np.array_equal(decode(path, range(25)), frames)
    assert np.array_equal(decode(path, [24, 3, 3]), frames[[24, 3, 3]])


@pytest.mark.parametrize("name", ["open_gop.mp4", "closed_gop.mp4", "vp8.webm"])
def test_files_too_large_to_keep_are_read_twice(tmp_path, monkeypatch, name):
    monkeypatch.setattr(index, "KEPT_BYTES", 1000)
    path = write_tricky(tmp_path, name)
    with Video(path) as video:
        assert video.index.packets is None
        assert not video.index.doubt
    assert_same_frames(path, decode_all(path))


def test_jumping_decodes_only_what_is_needed(tmp_path, monkeypatch):
    path = write_tricky(tmp_path, "closed_gop.mp4")
    monkeypatch.setattr(Video, "scan", lambda self: pytest.fail("decoded the whole file"))
    with Video(path) as video:
        start = video.index.start(video.index.pts[50])
        assert start >= 40
        monkeypatch.setattr(video.index, "packets", [None] * start + video.index.packets[start:])
        video.read([50])


def test_alt_ref_pictures_are_not_frames(shared):
    with Video(shared / "videos/stream_of_water.webm") as video:
        assert len(video.index.packets) == 123
        assert len(video) == 118
        assert not video.index.doubt


@pytest.fixture
def ghost(monkeypatch):
    """Makes every index promise one frame more than there is."""

    def build_with_a_frame_too_many(container, stream):
        built = index.build_index(container, stream)
        ghost = built.pts[-1] + 512
        built.place[ghost] = built.place[built.pts[-1]]
        built.pts.append(ghost)
        built.pictures += 1
        return built

    monkeypatch.setattr(decode_module, "build_index", build_with_a_frame_too_many)


def test_a_lying_index_is_found_out(tmp_path, ghost):
    path = write_tricky(tmp_path, "closed_gop.mp4")
    truth = decode_all(path)
    with Video(path) as video, pytest.raises(errors.Truncated, match="60 frames decode of 61"):
        video.read([60])
    with Video(path, allow_truncated=True) as video:
        assert len(video) == 61
        with pytest.raises(
            errors.WrongFrames, match="frame 60 was asked for; frames 0 to 59 exist"
        ):
            video.read([60])
        assert len(video) == 60
        assert np.array_equal(video.read([59, 20]), truth[[59, 20]])


def test_a_lying_index_is_found_out_frame_by_frame(tmp_path, ghost):
    path = write_tricky(tmp_path, "closed_gop.mp4")
    with Video(path) as video, pytest.raises(errors.Truncated, match="60 frames decode of 61"):
        list(video.frames([3, 20]))
    with Video(path, allow_truncated=True) as video:
        with pytest.raises(errors.WrongFrames, match="60 frames decode, at other times"):
            list(video.frames([3, 20]))
        assert len(video) == 60
        assert np.array_equal(np.stack([*video.frames([3, 20])]), video.read([3, 20]))


@pytest.mark.parametrize("name", TRICKY)
def test_frames_come_one_at_a_time_as_they_do_at_once(tmp_path, name):
    path = write_tricky(tmp_path, name)
    wanted = [0, 7, 7, 31, 59]
    with Video(path) as video, Video("in memory", content=path.read_bytes()) as same:
        assert np.array_equal(np.stack([*video.frames(wanted)]), decode_all(path)[wanted])
        assert np.array_equal(same.read(wanted), decode_all(path)[wanted])


@pytest.mark.parametrize("name", ["broken_truncated_after_moov.mp4", "broken_truncated_half.webm"])
def test_a_cut_file_in_memory_is_named_as_on_disk(shared, name):
    content = (shared / "videos" / name).read_bytes()
    with pytest.raises(errors.Truncated, match=f"^{name}: truncated"):
        Video(name, content=content)
    with pytest.raises(errors.CannotOpen, match="the file is empty"):
        Video(name, content=b"")


def test_one_open_video_answers_again_and_again(tmp_path):
    path = write_tricky(tmp_path, "open_gop.mp4")
    truth = decode_all(path)
    with Video(path) as video:
        for indices in ([59], [0], [30, 31], [59, 0], []):
            assert np.array_equal(
                video.read(indices), truth[indices] if indices else video.read([])
            )


def test_times_are_counted_not_read(shared):
    vfr = probe(shared / "videos/derived_flower_vfr.mkv")
    assert vfr.frames == len(vfr.timestamps) == 75
    # The header says 30 frames a second; 75 frames last 5 seconds.
    assert vfr.fps == pytest.approx(74 / 4.972, rel=1e-2)
    assert vfr.duration == pytest.approx(5.0, abs=0.1)
    over = probe(shared / "videos/derived_rabbit_xvid_mp3.avi")
    assert over.frames == 120
    assert probe(shared / "videos/nasa_13013.mp4").frames == 390


@pytest.mark.smoke
def test_probe_of_a_drawn_video(tmp_path):
    info = probe(write(tmp_path / "a.mp4", draw(30)))
    assert (info.frames, info.codec) == (30, "h264")
    assert info.fps == pytest.approx(25)
    assert info.duration == pytest.approx(1.2)
    assert np.allclose(info.timestamps, np.arange(30) / 25)


def test_rotation_tag_is_obeyed(shared):
    assert decode(shared / "videos/rotated_90.mov", [0, 2]).shape == (2, 568, 320, 3)


@pytest.mark.parametrize("index_", [-1, 60])
def test_frames_that_do_not_exist(tmp_path, index_):
    path = write_tricky(tmp_path, "closed_gop.mp4")
    with pytest.raises(errors.WrongFrames, match=f"{path}: frame {index_} was asked for"):
        decode(path, [3, index_])


@pytest.mark.parametrize(
    ("name", "kind", "cause"),
    [
        ("broken_truncated_no_moov.mp4", errors.CannotOpen, "Invalid data"),
        ("broken_zero_byte.mp4", errors.CannotOpen, "the file is empty"),
        ("broken_text_renamed.mp4", errors.CannotOpen, "Invalid data"),
        ("broken_png_renamed.mp4", errors.NotAVideo, "png_pipe"),
        ("broken_truncated_after_moov.mp4", errors.Truncated, "after 70 frames"),
        ("broken_truncated_half.webm", errors.Truncated, r"end at 2\.4\d s of 5\.06 s"),
    ],
)
def test_broken_files_name_themselves_and_the_cause(shared, capfd, name, kind, cause):
    path = str(shared / "videos" / name)
    with pytest.raises(kind, match=cause) as caught:
        decode(path, [0])
    assert caught.value.path == path
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    with pytest.raises(kind):
        probe(path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "frames"),
    [("broken_truncated_after_moov.mp4", 70), ("broken_truncated_half.webm", 73)],
)
def test_allow_truncated_admits_the_frames_that_exist(shared, name, frames):
    path = shared / "videos" / name
    assert probe(path, allow_truncated=True).frames == frames
    whole = {"after_moov": "flower.mp4", "half": "flower.webm"}[
        re.search("after_moov|half", name)[0]
    ]
    indices = [frames - 1, 0, frames // 2]
    got = decode(path, indices, allow_truncated=True)
    assert np.array_equal(got, decode(shared / "videos" / whole, indices))
    with pytest.raises(errors.WrongFrames):
        decode(path, [frames], allow_truncated=True)


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv", "cut.avi"])
def test_cut_files_are_truncated(tmp_path, name):
    codec = "mpeg4" if name.endswith("avi") else "libx264"
    path = write(tmp_path / name, draw(100), codec, container_options={"movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    with pytest.raises(errors.Truncated):
        probe(path)
    assert 20 < probe(path, allow_truncated=True).frames < 80


def test_damage_in_the_middle_shows_when_it_is_read(tmp_path):
    path = write_lossless(tmp_path, "png.mov", draw(100))
    truth = decode_all(path)
    with Video(path) as video:
        damaged = bytes(video.index.packets[40])
    path.write_bytes(path.read_bytes().replace(damaged[:200], bytes(200)))
    assert probe(path).frames == 100
    with pytest.raises(errors.Truncated, match="after 40 frames the decoder ends in: Invalid data"):
        decode(path, [30, 40])
    assert np.array_equal(decode(path, [30, 39], allow_truncated=True), truth[[30, 39]])
    with pytest.raises(errors.WrongFrames, match="frames 0 to 39 exist"):
        decode(path, [30, 40], allow_truncated=True)


def test_what_is_no_video(tmp_path):
    Image.fromarray(draw(1)[0]).save(tmp_path / "still.jpg")
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    for name in ("still.jpg", "sound.wav"):
        with pytest.raises(errors.NotAVideo, match=name):
            probe(tmp_path / name)


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "absent.mp4", tmp_path):
        with pytest.raises(errors.CannotOpen, match="no such file"):
            probe(path)


def test_names_that_look_like_protocols(tmp_path):
    path = write(tmp_path / "http:clip%03d.mp4", draw(5))
    assert probe(path).frames == 5


def test_tags_that_are_not_utf8(tmp_path):
    path = tmp_path / "tagged.mkv"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "TITLETITLE"
        stream = container.add_stream("ffv1", rate=25, width=96, height=64, pix_fmt="bgr0")
        for frame in draw(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes().replace(b"TITLETITLE", b"\xff\xfeTLETITLE"))
    assert probe(path).frames == 3


@pytest.mark.slow
def test_memory_stays_flat(tmp_path):
    path = write_lossless(tmp_path, "ffv1.mkv", draw(25, 64, 64))
    grown = run_python(
        """
        import sys
        from vlt.data.video.decode import decode

        def resident():
            return int(open("/proc/self/statm").read().split()[1]) * 4096

        def read(times):
            for _ in range(times):
                decode(sys.argv[1], range(25))

        read(100)
        before = resident()
        read(500)
        print(resident() - before)
        """,
        path,
    )
    # One clip is 0.3 MB: keeping one in twenty reads would show.
    assert int(grown) < 3e6


def write_with_sound(path, seconds, sound_seconds, late=0.0, codec="libx264", **options):
    """A video at 25 frames per second that starts `late`, with sound of another duration."""
    with av.open(str(path), "w", container_options=options) as container:
        film = container.add_stream(codec, rate=25)
        film.height, film.width, film.pix_fmt = 64, 96, "yuv420p"
        sound = container.add_stream(
            "mp3" if path.suffix in (".avi", ".flv") else "aac", rate=44100
        )
        sound.layout = "mono"
        for number, image in enumerate(draw(round(25 * seconds))):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number + round(25 * late), Fraction(1, 25)
            container.mux(film.encode(frame))
        container.mux(film.encode(None))
        for start in range(0, round(44100 * sound_seconds), 1152):
            part = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.float32), "fltp", "mono")
            part.sample_rate, part.pts = 44100, start
            container.mux(sound.encode(part))
        container.mux(sound.encode(None))
    return path


@pytest.mark.parametrize("name", ["a.mkv", "tagless.mkv", "a.mp4"])
@pytest.mark.parametrize("frames", [1, 2])
def test_a_frame_or_two_with_longer_sound_is_no_cut(tmp_path, name, frames):
    path = write_with_sound(tmp_path / name, frames / 25, 3)
    if name == "tagless.mkv":
        path.write_bytes(path.read_bytes().replace(b"DURATION", b"DURATION"[::-1]))
    assert probe(path).frames == frames


@pytest.mark.parametrize("late", [0.0, 3.0])
@pytest.mark.parametrize(
    "name", ["a.mkv", "tagless.mkv", "a.mp4", "a.mov", "a.ts", "a.flv", "a.avi"]
)
def test_sound_that_lasts_longer_than_the_picture_is_no_cut(tmp_path, name, late):
    codec = "mpeg4" if name == "a.avi" else "libx264"
    path = write_with_sound(tmp_path / name, 2, 9, late, codec)
    if name == "tagless.mkv":
        path.write_bytes(path.read_bytes().replace(b"DURATION", b"DURATION"[::-1]))
    assert probe(path).frames == 50
    assert np.array_equal(decode(path, [0, 49]), decode_all(path)[[0, 49]])


@pytest.mark.parametrize("name", ["a.mkv", "tagless.mkv", "a.mp4"])
@pytest.mark.parametrize("seconds", [(9, 9), (9, 2)])
def test_a_cut_is_found_beside_sound(tmp_path, monkeypatch, name, seconds):
    """From the ends of the streams alone, without looking at the structure."""
    monkeypatch.setattr(decode_module, "find_break", lambda *_: "")
    path = write_with_sound(tmp_path / name, *seconds, movflags="faststart")
    content = path.read_bytes()
    if name == "tagless.mkv":
        content = content.replace(b"DURATION", b"DURATION"[::-1])
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(errors.Truncated):
        probe(path)


def test_a_track_s_own_end_counts(tmp_path):
    """A Matroska tag promises more frames than there are, and no other stream explains it."""
    path = write(tmp_path / "a.mkv", draw(50))
    content = path.read_bytes()
    assert content.count(b"00:00:02.000000000") == 1
    path.write_bytes(content.replace(b"00:00:02.000000000", b"00:00:09.000000000"))
    assert probe(path).frames == 50  # beyond the container's own duration: not trusted
    path.write_bytes(content.replace(b"00:00:02.000000000", b"rubbish of 18 byte"))
    assert probe(path).frames == 50


def test_sound_files_given(shared):
    path = shared / "faults" / "mkv_sound_longer_than_picture.mkv"
    assert probe(path).frames == len(decode_all(path)) == 50


def joined(tmp_path, name, codec, sizes, pix_fmts=("yuv420p", "yuv420p")):
    """Streams concatenated in one file, as written by a recorder whose picture format changes."""
    parts = []
    for (height, width), pix_fmt in zip(sizes, pix_fmts, strict=True):
        part = write(tmp_path / f"part-{name}", draw(20, height, width), codec, {}, pix_fmt)
        parts.append(part.read_bytes())
    (tmp_path / name).write_bytes(b"".join(parts))
    return tmp_path / name


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mpg", "mpeg2video"), ("a.ts", "libx264"), ("a.h264", "libx264")]
)
def test_a_size_that_changes_is_named(tmp_path, name, codec):
    path = joined(tmp_path, name, codec, [(64, 96), (96, 128)])
    sizes = r"frames of two sizes \(H, W\): \(64, 96\) and \(96, 128\)"
    with pytest.raises(errors.WrongFrames, match=sizes) as caught:
        decode(path, [0, 39])
    assert caught.value.path == str(path)


def test_a_pixel_format_that_changes_is_followed(tmp_path):
    pix_fmts = ("yuv420p", "yuv444p")
    path = joined(tmp_path, "a.h264", "libx264", [(64, 96)] * 2, pix_fmts)
    truth = decode_all(path)
    assert len(truth) == 40
    assert np.array_equal(decode(path, [1, 19, 20, 39]), truth[[1, 19, 20, 39]])


@pytest.mark.parametrize("rate", [Fraction(0), Fraction(-25), None])
def test_rates_that_are_none(tmp_path, monkeypatch, rate):
    path = write(tmp_path / "a.mp4", draw(1))

    class Stream:
        def __init__(self, stream):
            self._stream = stream

        average_rate = guessed_rate = rate

        def __getattr__(self, name):
            return getattr(self._stream, name)

    whole = decode_module.video_stream
    monkeypatch.setattr(decode_module, "video_stream", lambda *a: Stream(whole(*a)))
    monkeypatch.setattr(decode_module, "build_index", lambda c, s: index.build_index(c, s._stream))
    with Video(path) as video:
        assert (len(video), video.fps) == (1, 25.0)
        assert video.info().duration > 0
