"""One frame of a file, found without reading what comes before it."""

import numpy as np
import pytest
from video_files import LOSSLESS, TRICKY, draw, write, write_lossless, write_tricky

import vlt.data.video.glance
from vlt.data.video import errors
from vlt.data.video.clips import DecoderPool
from vlt.data.video.decode import Video
from vlt.data.video.glance import GlanceRequest, glance
from vlt.data.video.spans import SPAN_WORKER


def seen(path, at):
    return glance(GlanceRequest(str(path), at))


def difference(one, other):
    return np.abs(one.astype(int) - other).mean()


@pytest.mark.parametrize("name", sorted(TRICKY))
def test_the_frame_at_a_time_is_that_which_reading_gives(tmp_path, name):
    path = write_tricky(tmp_path, name)
    with Video(path) as video:
        trusted, frames = not video.index.doubt, video.read(range(len(video)))
        times = video.timestamps() - video.timestamps()[0]
    for i in (0, 1, 13, 30, 59):
        found = seen(path, times[i] + 0.01)
        if trusted:
            np.testing.assert_array_equal(found, frames[i])
        else:
            around = frames[max(0, i - 3) : i + 4]
            assert min(difference(found, frame) for frame in around) < 1


@pytest.mark.parametrize("name", sorted(LOSSLESS))
def test_a_time_past_the_end_shows_the_last_frame(tmp_path, name):
    path = write_lossless(tmp_path, name, draw(20))
    with Video(path) as video:
        last = video.read([len(video) - 1])[0]
    np.testing.assert_array_equal(seen(path, 1e6), last)


def test_little_more_than_what_is_shown_is_decoded(tmp_path, monkeypatch):
    path = write(tmp_path / "long.ts", draw(1500), options={"g": "25"})
    decoded = []
    all_frames = vlt.data.video.glance._decoded

    def counted(*args):
        for each in all_frames(*args):
            decoded.append(each)
            yield each

    monkeypatch.setattr("vlt.data.video.glance._decoded", counted)
    seen(path, 55.0)
    assert len(decoded) < 300


def test_a_process_answers_and_names_what_is_wrong(tmp_path):
    text, empty = tmp_path / "a.mp4", tmp_path / "b.ts"
    text.write_text("hello " * 100)
    good = write_tricky(tmp_path, "transport.ts")
    empty.write_bytes(good.read_bytes()[:188])
    with DecoderPool(1, 30.0, SPAN_WORKER) as pool:
        assert pool.read(GlanceRequest(str(good), 1.0)).shape == (64, 96, 3)
        for path in (text, empty, tmp_path / "none.mp4"):
            with pytest.raises(errors.VideoError, match=path.name):
                pool.read(GlanceRequest(str(path), 1.0))
