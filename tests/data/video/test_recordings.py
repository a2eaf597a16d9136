"""A recording of television, within which a stream of sound begins and ends."""

import json

import av
import numpy as np
import pytest
from video_files import write_recording

from vlt.data.video.clips import DecoderPool
from vlt.data.video.cutting import CutRequest
from vlt.data.video.decode import Video
from vlt.data.video.glance import GlanceRequest
from vlt.data.video.spans import SPAN_WORKER, SpansRequest, TimelineRequest, timeline_of

FRAMES = 41 * 30


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return str(write_recording(tmp_path_factory.mktemp("recording") / "film.ts"))


@pytest.mark.skipif(int(av.__version__.split(".")[0]) > 18, reason="PyAV 19 mended it")
def test_pyav_fails_at_its_end(recording):
    with av.open(recording) as container, pytest.raises(IndexError):
        list(container.demux(container.streams.video[0]))


def test_all_of_its_frames_are_read(recording):
    with Video(recording) as video:
        assert len(video) == FRAMES
        frames = video.read(range(FRAMES))
    # Parts begin with a keyframe, and their first frames differ.
    assert len(np.unique(frames[::30].reshape(41, -1), axis=0)) == 41


def test_every_request_is_answered(recording, tmp_path):
    with DecoderPool(1, 60.0, SPAN_WORKER) as pool:
        told = timeline_of(pool.read(TimelineRequest(recording)), recording)
        assert told.frames == FRAMES
        spans = SpansRequest(recording, "linspace", 2, spans=[(0.0, 1.0), (24.0, 26.0)])
        clips = pool.read(spans)
        assert clips.shape == (2, 2, 64, 96, 3)
        shown = pool.read(GlanceRequest(recording, 24.0))
        assert np.abs(shown.astype(int) - clips[1, 0]).mean() < 3
        cut = CutRequest(recording, 24.0, 26.0, str(tmp_path / "part"))
        assert json.loads(pool.read(cut).tobytes())["file"].endswith(".mp4")
