"""Which files are trusted for seeking; test_decode.py covers the frames that it gives."""

import pytest
from video_files import write_tricky

from vlt.data.video.decode import Video


@pytest.mark.parametrize("name", ["closed_gop.mp4", "vp8.webm", "vp9.webm"])
def test_jumping_in_a_sound_file_meets_no_surprise(tmp_path, name):
    with Video(write_tricky(tmp_path, name)) as video:
        assert video.index.doubt == ""
        for wanted in ([0, 1, 2], [3, 17, 59], [59], [58, 59]):
            assert len(video.read(wanted)) == len(wanted)
        assert video.index.doubt == ""


@pytest.mark.parametrize(
    ("name", "doubt"), [("b_frames.avi", "timestamps are guesses"), ("transport.ts", "container")]
)
def test_files_of_doubtful_times_are_read_through(tmp_path, name, doubt):
    with Video(write_tricky(tmp_path, name)) as video:
        assert len(video.read([3, 59])) == 2
        assert doubt in video.index.doubt
