"""Time ranges cut out as files: the same frames at the same times, with their sound."""

import json
import pathlib
import re
import shutil
from fractions import Fraction

import av
import numpy as np
import pytest
from video_files import count_readings, draw, write

from vlt import cut as door
from vlt.data.video import errors
from vlt.data.video.cutting import CutRequest, cut
from vlt.data.video.decode import Video

RATE = 25


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """50 frames of H.264 with B-frames and a keyframe every 20 frames, and sound."""
    path = tmp_path_factory.mktemp("film") / "it's.mp4"
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as made:
        picture = made.add_stream(
            "libx264", rate=RATE, options={"g": "20", "bf": "2", "sc_threshold": "0"}
        )
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        sound = made.add_stream("aac", rate=16000)
        for index in range(50):
            image = np.kron(rng.integers(0, 256, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = index
            made.mux(picture.encode(frame))
        made.mux(picture.encode(None))
        for index in range(0, 32000, 1000):
            wave = np.sin(np.arange(index, index + 1000) / 10, dtype=np.float32)[None]
            frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, index
            made.mux(sound.encode(frame))
        made.mux(sound.encode(None))
    return path


def cut_out(path, start, end, stem):
    return json.loads(cut(CutRequest(str(path), start, end, str(stem))).tobytes())


@pytest.mark.parametrize(
    ("first", "after", "copied"),
    [
        (0, 20, True),
        (20, 50, True),
        (40, 50, True),
        (0, 10, False),
        (7, 31, False),
        (49, 50, False),
    ],
)
def test_the_frames_of_a_range_and_no_others(film, tmp_path, first, after, copied):
    told = cut_out(film, first / RATE, after / RATE, tmp_path / "part")
    assert told["copied"] is copied
    with Video(film) as whole, Video(told["file"]) as part:
        times = whole.timestamps()[first:after]
        np.testing.assert_allclose(
            part.timestamps() - part.timestamps()[0], times - times[0], atol=1e-4
        )
        expected = whole.read(range(first, after)).astype(int)
        found = part.read(range(len(part))).astype(int)
    assert np.abs(found - expected).mean() < (1e-9 if copied else 6)
    with av.open(told["file"]) as opened:
        sound = sum(frame.samples for frame in opened.decode(audio=0))
    assert abs(sound / 16000 - (after - first) / RATE) < 0.2
    assert [path.name for path in tmp_path.iterdir()] == ["part.mp4"]


def look(path):
    with av.open(str(path)) as opened:
        picture = opened.streams.video[0]
        codec = picture.codec_context
        return picture.sample_aspect_ratio, codec.colorspace, codec.color_primaries, codec.color_trc


@pytest.mark.parametrize("colours", [1, 5, None])
def test_pixels_and_colours_look_as_before(tmp_path, colours):
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as made:
        stream = made.add_stream("libx264", rate=RATE, options={"g": "50", "qp": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        codec = stream.codec_context
        codec.sample_aspect_ratio = Fraction(4, 3)
        if colours:
            codec.colorspace = codec.color_primaries = codec.color_trc = colours
        for index in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), (0, 200, 50), np.uint8))
            frame = frame.reformat(format="yuv420p", dst_colorspace=colours or 5)
            frame.pts = index
            made.mux(stream.encode(frame))
        made.mux(stream.encode(None))
    told = cut_out(path, 3 / RATE, 7 / RATE, tmp_path / "part")
    assert not told["copied"] and look(told["file"]) == look(path)
    assert look(path)[:2] == (Fraction(4, 3), colours or 2)
    with Video(path) as whole, Video(told["file"]) as part:
        assert np.abs(whole.read([3]).astype(int) - part.read([0])).max() < 4


def test_what_can_only_be_read_from_its_start_is_read_once(tmp_path, monkeypatch):
    path = write(tmp_path / "film.ts", draw(80), "mpeg2video", {"g": "12", "bf": "2"})
    times = count_readings(monkeypatch)
    told = cut_out(path, 0.2, 2.9, tmp_path / "part")
    assert len(times) == 1, "when it is opened"
    with Video(path) as whole, Video(told["file"]) as part:
        seconds = whole.timestamps() - whole.timestamps()[0]
        first, after = np.searchsorted(seconds, (0.2, 2.9))
        expected = whole.read(range(first, after)).astype(int)
        assert np.abs(expected - part.read(range(len(part)))).mean() < 6


def test_no_link_is_written_through(film, tmp_path):
    other = tmp_path / "other"
    other.write_text("kept")
    for name in ("part.mp4", ".part.unfinished.mp4"):
        (tmp_path / name).symlink_to(other)
    with pytest.raises(RuntimeError, match="part.mp4 is a link to"):
        cut_out(film, 0, 0.8, tmp_path / "part")
    (tmp_path / "part.mp4").unlink()
    cut_out(film, 0, 0.8, tmp_path / "part")
    assert other.read_text() == "kept" and not (tmp_path / "part.mp4").is_symlink()
    with pytest.raises(RuntimeError, match="absent/part.mp4 cannot be written"):
        cut_out(film, 0, 0.8, tmp_path / "absent" / "part")


def test_a_film_with_a_wrong_suffix_is_copied(film, tmp_path):
    shutil.copy(film, tmp_path / "film.avi")
    told = cut_out(tmp_path / "film.avi", 0, 0.8, tmp_path / "part")
    assert told == {"file": str(tmp_path / "part.mkv"), "copied": True}


def test_no_frame_in_the_range(film, tmp_path):
    with pytest.raises(errors.WrongFrames, match="no frame from 60 s to 70 s; it lasts 2.00 s"):
        cut_out(film, 60, 70, tmp_path / "part")
    assert not list(tmp_path.iterdir())


def test_the_command(film, tmp_path, capsys):
    found = [
        {"video": str(film), "start": 0, "end": 0.8},
        {"video": "gone.mp4", "start": 0, "end": 1},
    ]
    ranges = tmp_path / "found.jsonl"
    ranges.write_text("".join(json.dumps(each | {"score": 1}) + "\n" for each in found))
    for told in ({"copied": True}, {"kept": True}):
        assert door.main([str(ranges), f"--out={tmp_path / 'out'}", "--json"]) == 1
        whole, gone = map(json.loads, capsys.readouterr().out.splitlines())
        name = door.Range(str(film), 0.0, 0.8).name()
        assert whole == found[0] | told | {"file": str(tmp_path / "out" / f"{name}.mp4")}
        assert "gone.mp4" in gone["error"]
    assert door.main([str(film), "--start=1", "--end=9", f"--out={tmp_path / 'out'}"]) == 0
    assert re.search(r"it's_1\.00-9\.00_\w{8}\.mp4: re-encoded", capsys.readouterr().out)


def test_videos_of_one_name_are_cut_to_files_of_their_own(film, tmp_path, capsys):
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        shutil.copy(film, tmp_path / folder / ("\u732b" * 80 + ".mp4"))
    videos = map(str, tmp_path.glob("*/*.mp4"))
    ranges = [(v, start) for v in videos for start in (0, 0.001)]
    lines = [json.dumps({"video": v, "start": start, "end": 0.8}) for v, start in ranges]
    (tmp_path / "found.jsonl").write_text("\n".join(lines))
    assert door.main([str(tmp_path / "found.jsonl"), f"--out={tmp_path / 'out'}"]) == 0
    assert len(list((tmp_path / "out").iterdir())) == 4
    assert "was there" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "line",
    ["[]", "{}", '{"video": 1, "start": 0, "end": 1}', '{"video": "a", "start": 2, "end": 1}', "x"],
)
def test_what_is_no_range_is_refused_before_anything_is_cut(line, film, tmp_path, capsys):
    ranges = pathlib.Path(tmp_path / "found.jsonl")
    ranges.write_text(json.dumps({"video": str(film), "start": 0, "end": 1}) + f"\n{line}\n")
    assert door.main([str(ranges), f"--out={tmp_path / 'out'}"]) == 1
    assert capsys.readouterr().err.startswith("error: ") and not (tmp_path / "out").exists()


def test_a_file_without_ranges_is_told(tmp_path, capsys):
    ranges = tmp_path / "found.jsonl"
    ranges.write_text("\n")
    assert door.main([str(ranges), f"--out={tmp_path / 'out'}"]) == 1
    assert f"error: {ranges}: holds no ranges" in capsys.readouterr().err
