"""Several views of a video: counted by the data, read by the decoders, refused in training."""

import pytest
from stub_pool import StubPool

VIEWS = {"sampler": {"name": "random_segments", "frames": 2, "clips": 4}}


@pytest.mark.parametrize(
    ("config", "views", "clips"),
    [
        ({}, 1, 1),
        (VIEWS, 4, 4),
        (VIEWS | {"transform": {"three_crops": 8}}, 12, 4),
        ({"transform": {"three_crops": 8}}, 3, 1),
    ],
)
def test_views_are_clips_times_crops(make, config, views, clips):
    pool = StubPool()
    data = make(pool, **config)
    assert data.views == views
    next(data.evaluate())
    assert {request.clips for request in pool.requests} == {clips}


def test_training_takes_one_view(make):
    with pytest.raises(ValueError, match="train: training takes one view of a video, not 4"):
        make(**VIEWS).train()


def test_no_clip_is_refused(make):
    sampler = VIEWS["sampler"] | {"clips": 0}
    with pytest.raises(ValueError, match="train.sampler.clips must be >= 1, got 0"):
        make(sampler=sampler)


@pytest.mark.parametrize(
    "config",
    [
        {"transform": {"grayscale": 0.2}},
        {"transform": {"multi_scale_crop": 8}},
        {"transform": {}, "sampler": {"name": "viclip_random", "frames": 2}},
        {"transform": {}, **VIEWS},
    ],
)
def test_random_clips_are_not_cached(make, config):
    with pytest.raises(ValueError, match="gives other clips in each epoch"):
        make(cache=True, **config)
