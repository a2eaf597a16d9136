"""Time spans, each read as if it were the whole video."""

import dataclasses
import shutil

import numpy as np
import pytest
from video_files import count_readings, write_lossless, write_tricky

from vlt.data.video import errors
from vlt.data.video.clips import WORKER, ClipRequest, DecoderPool, read_clip
from vlt.data.video.decode import Video
from vlt.data.video.sample import SAMPLERS, sample
from vlt.data.video.spans import (
    SPAN_WORKER,
    SpansRequest,
    TimelineRequest,
    read_spans,
    read_timeline,
    timeline_of,
)
from vlt.data.video.transform import apply_transform

TRANSFORM = {"resize": 16, "crop": 16}


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A video of 50 frames, no two alike, lasting about 2 s."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (50, 24, 32, 3), np.uint8)
    return str(write_lossless(tmp_path_factory.mktemp("spans"), "png.mov", frames))


def spans_of(video, *spans, sampler="linspace"):
    return read_spans(SpansRequest(video, sampler, 4, TRANSFORM, spans=spans))


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_the_whole_video_is_read_as_a_clip_is(video, sampler):
    told = timeline_of(read_timeline(TimelineRequest(video)), video)
    assert told.frames == 50
    (whole,) = spans_of(video, (0.0, told.duration), sampler=sampler)
    np.testing.assert_array_equal(whole, read_clip(ClipRequest(video, sampler, 4, TRANSFORM)))


def test_a_span_is_sampled_as_if_it_was_the_whole(video):
    with Video(video) as opened:
        times = opened.timestamps()
        frames = opened.read(range(10, 30))
    (found,) = spans_of(video, (times[10] - times[0], times[30] - times[0]))
    chosen = sample("linspace", 20, 4, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(found, apply_transform(TRANSFORM, frames[chosen], 0))


def test_spans_read_together_are_those_read_alone(video, monkeypatch):
    spans = [(0.0, 0.8), (0.4, 1.2), (1.2, 1.3), (1.29, 9.0)]
    together = spans_of(video, *spans)
    for held in (1, 4 * 24 * 32 * 3 * 2):
        monkeypatch.setattr("vlt.data.video.spans.HELD_BYTES", held)
        np.testing.assert_array_equal(spans_of(video, *spans), together)
    np.testing.assert_array_equal(np.stack([spans_of(video, one)[0] for one in spans]), together)


def test_what_can_only_be_read_from_its_start_is_read_once(tmp_path, monkeypatch):
    monkeypatch.setattr("vlt.data.video.decode.KEPT_BYTES", 0)
    path = str(write_tricky(tmp_path, "transport.ts"))
    spans = [(0.0, 0.8), (0.4, 1.2), (1.2, 1.3), (0.1, 0.2), (1.29, 9.0)]
    alone = np.stack([spans_of(path, one)[0] for one in spans])
    times = count_readings(monkeypatch)
    np.testing.assert_array_equal(spans_of(path, *spans), alone)
    assert len(times) == 1
    monkeypatch.setattr("vlt.data.video.spans.HELD_BYTES", 4 * 64 * 96 * 3)
    np.testing.assert_array_equal(spans_of(path, *spans), alone)
    assert 1 < len(times) <= 1 + len(spans)


@pytest.mark.parametrize("sampler", ["linspace", "segment_centre"])
@pytest.mark.parametrize(("held", "most"), [(1 << 28, 1), (4 * 64 * 96 * 3, 8)])
def test_requests_in_order_read_it_once_together(tmp_path, monkeypatch, sampler, held, most):
    path = str(write_tricky(tmp_path, "transport.ts"))
    monkeypatch.setattr("vlt.data.video.spans.HELD_BYTES", held)
    monkeypatch.setattr("vlt.data.video.decode.KEPT_BYTES", 0)
    spans = [(0.2 * i, 0.2 * i + 0.5) for i in range(8)]
    alone = [apply_transform(TRANSFORM, _frames_of(path, sampler, one), 0) for one in spans]
    asked = SpansRequest(path, sampler, 4, TRANSFORM)
    read_timeline(TimelineRequest(path))
    times = count_readings(monkeypatch)
    for at in range(0, len(spans), 2):
        some, later = spans[at : at + 2], spans[at + 2 : at + 4]
        found = read_spans(dataclasses.replace(asked, spans=some, later=later))
        np.testing.assert_array_equal(found, np.stack(alone[at : at + 2]))
    assert most // 2 <= len(times) <= most


@pytest.mark.parametrize("rest", [b"", b"\xff\x01" * 200], ids=["cut", "damaged"])
def test_what_is_left_of_a_video_is_read_to_its_end(tmp_path, rest):
    path = tmp_path / "left.ts"
    whole = write_tricky(tmp_path, "transport.ts").read_bytes()
    damaged = len(whole) * 3 // 5
    path.write_bytes(whole[:damaged] + (rest and rest + whole[damaged + len(rest) :]))
    asked = SpansRequest(str(path), "linspace", 4, TRANSFORM, allow_truncated=True)
    with Video(path, allow_truncated=True) as video:
        count, last = len(video), video.read([len(video) - 1])
        assert len(list(video.frames(range(count)))) == count
    found = read_spans(dataclasses.replace(asked, spans=[(0.0, 99.0)]))
    np.testing.assert_array_equal(found[0, -1:], apply_transform(TRANSFORM, last, 0))
    with pytest.raises(errors.Truncated):
        read_spans(dataclasses.replace(asked, spans=[(0.0, 99.0)], allow_truncated=False))


def _frames_of(path, sampler, span):
    """What a sampler takes of a span's frames, all of which are decoded apart."""
    with Video(path) as video:
        times = video.timestamps() - video.timestamps()[0]
        inside = np.flatnonzero((times >= span[0]) & (times < span[1]))
        chosen = sample(sampler, len(inside), 4, rng=np.random.default_rng((0, 1)), fps=video.fps)
        return video.read(inside[chosen].tolist())


@pytest.mark.parametrize("request_", [
    ClipRequest("absent", "linspace", 1), SpansRequest("absent", "linspace", 1),
])  # fmt: skip
def test_a_module_of_the_working_folder_is_not_imported(tmp_path, monkeypatch, request_):
    (tmp_path / "random.py").write_text("raise SystemExit('not ours')")
    monkeypatch.chdir(tmp_path)
    command = SPAN_WORKER if isinstance(request_, SpansRequest) else WORKER
    with (
        DecoderPool(1, command=command) as pool,
        pytest.raises(errors.CannotOpen, match="no such file"),
    ):
        pool.read(request_)


def test_a_span_without_a_frame_shows_the_one_before(video):
    with Video(video) as opened:
        times = opened.timestamps() - opened.timestamps()[0]
        frames = opened.read([10, 49])
    between = (times[10] + 0.25 * (times[11] - times[10]), times[11] - 1e-6)
    found = spans_of(video, between, (times[-1] + 5, times[-1] + 6))
    for clip, frame in zip(found, frames, strict=True):
        np.testing.assert_array_equal(clip, apply_transform(TRANSFORM, np.stack([frame] * 4), 0))


def test_a_process_answers_both_requests_and_sees_a_changed_file(video, tmp_path):
    other = tmp_path / "other.mov"
    shutil.copy(video, other)
    request = SpansRequest(str(other), "linspace", 2, TRANSFORM, spans=[(0.0, 9.0)])
    with DecoderPool(1, command=SPAN_WORKER) as pool:
        before = timeline_of(pool.read(TimelineRequest(str(other))), str(other))
        first = pool.read(request)
        frames = np.zeros((5, 24, 32, 3), np.uint8)
        write_lossless(tmp_path, "png.mov", frames).replace(other)
        after = timeline_of(pool.read(TimelineRequest(str(other))), str(other))
        assert pool.read(request).max() == 0 < first.max()
        other.unlink()
        with pytest.raises(errors.CannotOpen, match="other.mov"):
            pool.read(request)
    assert (before.frames, after.frames) == (50, 5) and before.sha256 != after.sha256


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"no json",
        b"[]",
        b'{"frames": 0, "duration": 1, "cuts": [], "sha256": ""}',
        b'{"frames": 9, "duration": Infinity, "cuts": [], "sha256": ""}',
        b'{"frames": 9, "duration": 1, "cuts": [null], "sha256": ""}',
    ],
)
def test_a_process_that_tells_nonsense_is_not_believed(answer):
    with pytest.raises(errors.DecoderDied, match="v.mp4"):
        timeline_of(np.frombuffer(answer, np.uint8), "v.mp4")


def test_shots_are_found(tmp_path):
    pytest.importorskip("scenedetect")
    shots = [np.full((20, 64, 64, 3), colour, np.uint8) for colour in (20, 220, 90)]
    path = str(write_lossless(tmp_path, "png.mov", np.concatenate(shots)))
    told = timeline_of(read_timeline(TimelineRequest(path, shots=True)), path)
    with Video(path) as opened:
        times = opened.timestamps() - opened.timestamps()[0]
    assert told.cuts == (times[20], times[40])
