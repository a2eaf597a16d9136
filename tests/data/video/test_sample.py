"""Sampling rules against indices worked out by hand from the papers' formulas."""

from fractions import Fraction

import numpy as np
import pytest

from vlt.data.video.sample import RANDOM_SAMPLERS, SAMPLERS, check_sampler, sample


def take(name: str, n: int, frames: int, seed: int = 0, fps: float = 10.0) -> list[int]:
    return sample(name, n, frames, rng=np.random.default_rng(seed), fps=fps).tolist()


@pytest.mark.parametrize(
    ("name", "n", "frames", "expected"),
    [
        # s = 9 / 4 = 2.25: edges 0, 2, 4 (4.5 rounds to even), 7, 9.
        ("segment_middle", 10, 4, [1, 3, 5, 8]),
        ("conversation_middle", 10, 4, [1, 3, 5, 8]),
        ("linspace", 10, 4, [0, 3, 6, 9]),
        ("linspace", 8, 4, [0, 2, 5, 7]),
        ("segment_centre", 10, 4, [1, 3, 6, 8]),
        ("segment_centre", 25, 4, [3, 9, 15, 21]),
        # Ten frames a second: seconds at 0, 10, .., 90, thinned to places 0, 3, 6, 9.
        ("fps1_linspace", 100, 4, [0, 30, 60, 90]),
        # Truncated: places 0, 2.25, 4.5, 6.75, 9.
        ("fps1_linspace", 100, 5, [0, 20, 40, 60, 90]),
        ("fps1_linspace", 40, 4, [0, 10, 20, 30]),
        # Three seconds, four frames: spread over all frames, truncated.
        ("fps1_linspace", 26, 4, [0, 8, 16, 25]),
        # The step 30 / 8 = 3.75 is cut to 3.
        ("published_uniform", 30, 8, [0, 3, 6, 9, 12, 15, 18, 21]),
        ("published_uniform", 9, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        # Eight or fewer frames are doubled until there are more than eight.
        ("published_uniform", 8, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        ("published_uniform", 5, 8, [0, 0, 1, 1, 2, 2, 3, 3]),
        ("published_uniform", 3, 8, [0, 0, 0, 0, 1, 1, 1, 1]),
        # Intervals 0-1, 2-4, 5-6, 7-9.
        ("viclip_middle", 10, 4, [0, 3, 5, 8]),
        ("viclip_middle", 16, 4, [1, 5, 9, 13]),
        ("viclip_middle", 3, 5, [0, 1, 2, 2, 2]),
        ("viclip_random", 3, 5, [0, 1, 2, 2, 2]),
        # Segments of one frame; then segments 3/8 of a frame apart, none beyond the end.
        ("random_segments", 7, 4, [0, 1, 2, 3]),
        ("random_segments", 3, 8, [0, 0, 1, 1, 2, 2, 2, 2]),
        # More frames than exist.
        ("segment_middle", 3, 6, [0, 0, 1, 1, 1, 2]),
        ("linspace", 3, 5, [0, 0, 1, 2, 2]),
        ("segment_centre", 2, 4, [0, 0, 1, 1]),
        ("fps1_linspace", 1, 3, [0, 0, 0]),
        ("conversation_middle", 3, 8, [0, 1, 1]),
    ],
)
def test_rules_give_the_papers_indices(name, n, frames, expected):
    assert take(name, n, frames) == expected


def test_uniform_segments_draws_from_whole_segments_ends_included():
    draws = np.array([take("uniform_segments", 10, 4, seed) for seed in range(300)])
    assert draws.min(axis=0).tolist() == [0, 2, 4, 7]
    assert draws.max(axis=0).tolist() == [2, 4, 7, 9]
    assert set(draws[:, 0]) == {0, 1, 2}
    assert take("uniform_segments", 10, 4, 5) == take("uniform_segments", 10, 4, 5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_indices_exist_and_ascend(name):
    for n in (1, 2, 7, 30, 301):
        for frames in (1, 4, 12, 64):
            indices = take(name, n, frames, fps=29.97)
            assert len(indices) == (min(n, frames) if name == "conversation_middle" else frames)
            assert min(indices) >= 0 and max(indices) < n
            assert indices == sorted(indices)


@pytest.mark.parametrize("fps", [1.0, 9.5, 12.5, 23.976, 25.0, 29.97, 60.0])
def test_fps1_linspace_is_the_published_rule(fps):
    """TempMe's steps one by one, for clips of many lengths."""
    for n in (1, 2, 11, 12, 13, 287, 288, 289, 300, 1800, 5000):
        for frames in (8, 12, 64):
            seconds = list(range(0, n, int(round(fps / 1))))
            if len(seconds) > frames:
                places = np.linspace(0, len(seconds) - 1, frames, dtype=int)
                expected = [seconds[place] for place in places]
            elif len(seconds) == frames:
                expected = seconds
            else:
                expected = np.linspace(0, n - 1, frames, dtype=int).tolist()
            assert take("fps1_linspace", n, frames, fps=fps) == expected, (n, frames)


def test_slow_videos_keep_every_frame():
    assert take("fps1_linspace", 6, 3, fps=0.2) == [0, 2, 5]


def test_reversal_maps_sampled_frames_onto_themselves():
    """Moving shapes relies on this: a twin's sampled frames are the clip's, reversed."""
    for n in range(8, 65):
        indices = np.array(take("linspace", n, 8))
        assert np.array_equal(n - 1 - indices[::-1], indices), n
    for frames in (4, 8, 12):
        indices = np.array(take("segment_centre", 25, frames))
        assert np.array_equal(24 - indices[::-1], indices), frames


def test_random_frames_are_any_and_never_twice_where_there_are_enough():
    draws = np.array([take("random_frames", 30, 8, seed) for seed in range(500)])
    assert (np.diff(draws) > 0).all()
    counts = np.bincount(draws.ravel(), minlength=30) / 500
    np.testing.assert_allclose(counts, 8 / 30, atol=0.07)
    assert take("random_frames", 30, 8, 5) == take("random_frames", 30, 8, 5)


@pytest.mark.parametrize(("n", "most"), [(8, 2), (5, 2), (4, 4), (3, 4), (1, 16)])
def test_random_frames_of_short_videos_are_doubled_ones(n, most):
    draws = [np.bincount(take("random_frames", n, 8, seed), minlength=n) for seed in range(200)]
    assert all(counts.sum() == 8 and counts.max() <= most for counts in draws)
    if most < 16:
        assert np.max(draws) == most and np.min(draws) == 0


def test_published_uniform_is_the_published_rule():
    """Token Mixing's rule, step by step."""
    for n in range(1, 400):
        indices = list(range(n))
        while len(indices) <= 8:
            indices = [i for i in indices for _ in range(2)]
        kept = np.arange(0, len(indices), len(indices) / 8, dtype=int)
        assert take("published_uniform", n, 8) == [indices[k] for k in kept], n


def test_segment_centre_leaves_no_more_than_half_a_segment_out_where_the_published_drops_a_tail():
    for n in range(16, 400):
        assert n - 1 - take("segment_centre", n, 8)[-1] <= n / 16
    assert 30 - 1 - take("published_uniform", 30, 8)[-1] == 8


def test_random_segments_draw_from_whole_segments_and_leave_the_rest_of_the_division_out():
    draws = np.array([take("random_segments", 15, 4, seed) for seed in range(300)])
    assert draws.min(axis=0).tolist() == [0, 3, 6, 9]
    assert draws.max(axis=0).tolist() == [2, 5, 8, 11]


def test_segment_centre_is_the_rule_that_goes_with_them():
    """ViFi-CLIP's int(i n / T + n / (2 T)), without rounding errors."""
    for n in range(1, 300):
        for frames in (8, 12, 32):
            middles = [Fraction(n * i, frames) + Fraction(n, 2 * frames) for i in range(frames)]
            assert take("segment_centre", n, frames) == [int(middle) for middle in middles]


def test_viclip_random_never_takes_the_last_frame_of_an_interval():
    draws = np.array([take("viclip_random", 16, 4, seed) for seed in range(300)])
    assert [sorted(set(column)) for column in draws.T.tolist()] == [
        [start, start + 1, start + 2] for start in (0, 4, 8, 12)
    ]


def test_viclip_random_takes_any_frames_where_an_interval_has_one():
    """Four of six frames: the intervals are 0, 1-2, 3, 4-5."""
    draws = [take("viclip_random", 6, 4, seed) for seed in range(400)]
    assert {frame for indices in draws for frame in indices} == set(range(6))
    assert len({tuple(indices) for indices in draws}) == 15  # 6 choose 4
    assert all(len(set(indices)) == 4 for indices in draws)


@pytest.mark.parametrize("name", sorted(SAMPLERS.keys() - RANDOM_SAMPLERS))
def test_even_clips_share_out_what_the_rule_takes_for_all_of_them(name):
    rng = np.random.default_rng(0)
    clips = sample(name, 301, 8, rng=rng, fps=25.0, clips=4).reshape(4, 8)
    every = take(name, 301, 32, fps=25.0)
    assert sorted(clips.ravel()) == every and len(set(every)) == 32
    assert (np.diff(clips) > 0).all() and clips[:, 0].tolist() == every[:4]


@pytest.mark.parametrize("name", sorted(RANDOM_SAMPLERS))
def test_random_clips_are_draws_of_their_own(name):
    rng = np.random.default_rng(4)
    expected = [sample(name, 301, 8, rng=rng) for _ in range(3)]
    clips = sample(name, 301, 8, rng=np.random.default_rng(4), clips=3).reshape(3, 8)
    assert np.array_equal(clips, expected) and len({clip.tobytes() for clip in clips}) == 3


def test_unknown_rules_and_empty_videos():
    with pytest.raises(ValueError, match="unknown sampler 'linspce' .did you mean 'linspace'"):
        check_sampler("linspce")
    for n, frames, clips in ((0, 8, 1), (8, 0, 1), (8, 8, 0)):
        with pytest.raises(ValueError, match="must be >= 1"):
            sample("linspace", n, frames, rng=np.random.default_rng(0), clips=clips)


def test_linspace_floor_is_pes_rule():
    """int(i (n - 1) / 7): includes both ends, and repeats the frames of a short video."""
    for n in (1, 5, 8, 100, 301):
        expected = [int(i * (n - 1) / 7) for i in range(8)]
        np.testing.assert_array_equal(
            sample("linspace_floor", n, 8, rng=np.random.default_rng(0)), expected
        )
    assert sample("linspace_floor", 9, 1, rng=np.random.default_rng(0)).tolist() == [0]
