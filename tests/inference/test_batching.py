"""Clips are read ahead in order and in bounded number; batches are padded to one size."""

import contextlib
import itertools
import re
import sys
import threading
import time

import numpy as np
import pytest
from video_files import draw, write

import vlt
from vlt.data.video.clips import ClipRequest, DecoderPool
from vlt.data.video.errors import CannotOpen, DecodeTimeout, VideoError
from vlt.inference.batching import map_readable
from vlt.inference.prefetch import clip_request, read_ahead
from vlt.model_io.folder import ModelConfig
from vlt.models.sizes import SIZES

# A decoder that hangs on the path 'hang'.
MISBEHAVING = (
    sys.executable,
    "-c",
    "import time\n"
    "from vlt.data.video import worker\n"
    "read = worker.read_clip\n"
    "worker.read_clip = lambda r: time.sleep(600) if r.path == 'hang' else read(r)\n"
    "worker.main()\n",
)


class CountingPool:
    """Reads clip i as [[i]]; clips 3 and 4 fail, and even ones are slow."""

    workers = 3

    def __init__(self):
        self.asked, self.closed = 0, False
        self._lock = threading.Lock()

    def read(self, request):
        number = int(request.path)
        with self._lock:
            self.asked += 1
        time.sleep(0.01 * (number % 2 == 0))
        if number in (3, 4):
            raise CannotOpen(request.path, "broken")
        return np.full((1, 1), number)

    def close(self):
        self.closed = True


def requests(numbers):
    return (ClipRequest(str(number), "segment_centre", 1) for number in numbers)


def test_order_is_kept_and_what_is_broken_stands_in_its_place():
    batches = list(read_ahead(CountingPool(), requests(range(8)), 3))
    assert [[r.path for r in batch] for batch, _ in batches] == [
        ["0", "1", "2"],
        ["3", "4", "5"],
        ["6", "7"],
    ]
    clips = [clip for _, part in batches for clip in part]
    for number, clip in enumerate(clips):
        if number in (3, 4):
            assert isinstance(clip, VideoError) and clip.path == str(number)
        else:
            assert clip == number


def test_any_number_of_files_is_read_two_batches_at_a_time():
    pool = CountingPool()
    with contextlib.closing(read_ahead(pool, requests(itertools.count(5)), 4)) as batches:
        for use in range(1, 6):
            next(batches)
            time.sleep(0.1)
            assert pool.asked == 4 * (use + 1)
    assert pool.closed


def test_a_pool_that_is_closed_ends_the_wait():
    with DecoderPool(1, timeout=600, command=MISBEHAVING) as pool:
        batches = read_ahead(pool, requests(["hang"] * 4), 2)
        threading.Timer(1.0, pool.close).start()
        start = time.monotonic()
        with pytest.raises(RuntimeError, match="closed"):
            next(batches)
        assert time.monotonic() - start < 60


def test_a_video_that_hangs_the_decoder_is_one_that_cannot_be_read():
    with DecoderPool(1, timeout=0.5, command=MISBEHAVING) as pool:
        ((_, (first, second)),) = read_ahead(pool, requests(["hang", "absent"]), 2)
    assert isinstance(first, DecodeTimeout) and "after 0.5 s" in first.reason
    assert not isinstance(second, DecodeTimeout)


def test_batches_are_filled_up_to_one_size():
    sizes = []

    def double(clips):
        sizes.append(len(clips))
        return list(2 * clips[:, 0])

    broken = CannotOpen("x", "broken")
    clips = [np.array([number]) for number in (1, 2, 3)]
    assert map_readable(double, clips, 4) == [2, 4, 6]
    assert map_readable(double, [broken, clips[1], broken], 4) == [broken, 4, broken]
    assert sizes == [4, 4]
    assert map_readable(double, [broken, broken], 4) == [broken, broken]
    assert sizes == [4, 4]


def test_clips_of_other_lengths_are_batches_of_their_own():
    shapes = []

    def last(clips):
        shapes.append(clips.shape)
        return [int(clip[-1]) for clip in clips]

    broken = CannotOpen("x", "broken")
    clips = [np.arange(3), broken, np.arange(5), np.arange(3) * 2]
    assert map_readable(last, clips, 4) == [2, broken, 4, 4]
    assert sorted(shapes) == [(4, 3), (4, 5)]


def test_videos_of_other_lengths_are_encoded_together_and_not_stacked(tmp_path):
    short, long = (str(write(tmp_path / f"{n}.mp4", draw(n))) for n in (3, 20))
    model = vlt.load("tiny_clip", frames=8)
    model.config = model.looking_at(None, "conversation_middle")
    alone = [np.asarray(model.encode_video(path))[0] for path in (short, long)]
    np.testing.assert_allclose(model.encode_video([short, long]), alone, atol=1e-6)
    told = f"{short} gives 3 x 32 x 32 x 3 and {long} 8 x 32 x 32 x 3 values, which do not fit"
    with pytest.raises(ValueError, match=re.escape(told)):
        model.read_videos([short, long])


def test_frames_are_those_of_the_folders_preprocessing():
    pixels = {"image_size": 32, "mean": [0.5] * 3, "std": [0.5] * 3, "resize": "bicubic"}
    spec = SIZES["clip_b16"]
    squeezed = clip_request(ModelConfig("blip", spec, {}, pixels | {"crop": "none"}, frames=3), "x")
    assert squeezed.transform["resize"] == (32, 32) and squeezed.frames == 3
    options = {"crop": "center", "resize": "lanczos"}
    cropped = clip_request(ModelConfig("clip", spec, {}, pixels | options), "x")
    assert cropped.transform == {"resize": 32, "crop": 32, "interpolation": "lanczos"}
    assert cropped.frames == 8
