"""Every operation against its definition written out in numpy, and the random draws."""

import collections

import numpy as np
import pytest
from PIL import Image
from video_files import draw as draw_frames

from vlt.data.video import rand_augment
from vlt.data.video.rand_augment import BLIP_OPERATIONS, OPERATIONS
from vlt.data.video.transform import apply_transform, check_transform

BICUBIC, NEAREST = Image.Resampling.BICUBIC, Image.Resampling.NEAREST
GREYS = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)


def change(name: str, pixels: np.ndarray, magnitude: float, sign: int = 1, method: int = NEAREST):
    changed = OPERATIONS[name](Image.fromarray(pixels), magnitude, sign, method)
    return np.asarray(changed).astype(int)


def test_there_are_the_fifteen_operations():
    assert len(OPERATIONS) == 15


def test_invert():
    frame = draw_frames(1)[0]
    assert np.array_equal(change("invert", frame, 7), 255 - frame.astype(int))


@pytest.mark.parametrize(("magnitude", "bits"), [(0, 4), (2.4, 4), (2.5, 3), (7, 2), (10, 0)])
def test_posterize_keeps_fewer_bits_the_stronger_it_is(magnitude, bits):
    step = 2 ** (8 - bits)
    expected = GREYS.astype(int) // step * step
    assert np.array_equal(change("posterize", GREYS, magnitude), expected)


@pytest.mark.parametrize(("magnitude", "threshold"), [(0, 256), (7, 256 - 179), (10, 0)])
def test_solarize_inverts_from_a_threshold_that_falls(magnitude, threshold):
    greys = GREYS.astype(int)
    expected = np.where(greys < threshold, greys, 255 - greys)
    assert np.array_equal(change("solarize", GREYS, magnitude), expected)


@pytest.mark.parametrize(("magnitude", "added"), [(0, 0), (7, 77), (10, 110)])
def test_solarize_add_brightens_what_is_dark(magnitude, added):
    greys = GREYS.astype(int)
    expected = np.where(greys < 128, greys + added, greys)
    assert np.array_equal(change("solarize_add", GREYS, magnitude), expected)


def test_auto_contrast_stretches_each_channel_to_the_whole_range():
    frame = np.stack([40 + GREYS[..., 0] // 4, GREYS[..., 0] // 2, GREYS[..., 0]], axis=2)
    got = change("auto_contrast", frame, 7)
    low, high = frame.min((0, 1)), frame.max((0, 1))
    expected = (frame.astype(float) - low) * 255 / (high - low)
    assert np.abs(got - expected).max() <= 1
    assert got.min((0, 1)).tolist() == [0, 0, 0] and got.max((0, 1)).min() >= 254


def test_equalize_makes_all_values_as_frequent():
    rng = np.random.default_rng(0)
    frame = (rng.random((64, 64, 3)) ** 3 * 255).astype(np.uint8)  # mostly dark
    got = change("equalize", frame, 7)
    for channel in range(3):
        quartiles = np.quantile(got[..., channel], (0.25, 0.5, 0.75))
        np.testing.assert_allclose(quartiles, (64, 128, 191), atol=10)
        order = np.argsort(frame[..., channel], axis=None, kind="stable")
        assert np.all(np.diff(got[..., channel].ravel()[order]) >= 0)


@pytest.mark.parametrize(("sign", "factor"), [(1, 1.63), (-1, 0.37)])
def test_enhancements_blend_with_what_lacks_the_property(sign, factor):
    frame = draw_frames(1)[0]
    grey = np.asarray(Image.fromarray(frame).convert("L")).astype(float)
    without = {
        "brightness": np.zeros_like(frame),
        "color": grey[..., None],
        "contrast": np.full_like(frame, int(grey.mean() + 0.5)),
    }
    for name, dull in without.items():
        expected = np.clip(dull + factor * (frame.astype(float) - dull), 0, 255)
        assert np.abs(change(name, frame, 7, sign) - expected).max() <= 1, name


@pytest.mark.parametrize(("sign", "factor"), [(1, 1.63), (-1, 0.37)])
def test_sharpness_blends_with_a_smoothed_frame(sign, factor):
    frame = draw_frames(1)[0]
    weights = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    height, width = frame.shape[:2]
    smooth = sum(
        weights[y, x] * frame[y : y + height - 2, x : x + width - 2].astype(float)
        for y in range(3)
        for x in range(3)
    )
    expected = np.clip(smooth + factor * (frame[1:-1, 1:-1] - smooth), 0, 255)
    got = change("sharpness", frame, 7, sign)[1:-1, 1:-1]
    assert np.abs(got - expected).max() <= 2  # the smoothed frame is rounded


@pytest.mark.parametrize("sign", [1, -1])
def test_translation_moves_by_a_share_of_the_side_and_fills_with_grey(sign):
    frame = draw_frames(1, 160, 80)[0]
    for name, pixels, axis in (("translate_x", 36, 1), ("translate_y", 72, 0)):
        got = change(name, frame, 10, sign)
        place = np.arange(frame.shape[axis])
        kept = place < len(place) - pixels if sign > 0 else place >= pixels
        kept = kept[:, None, None] if axis == 0 else kept[None, :, None]
        moved = np.roll(frame.astype(int), -sign * pixels, axis)
        assert np.array_equal(got, np.where(kept, moved, 128)), name


@pytest.mark.parametrize("sign", [1, -1])
def test_shear_moves_rows_or_columns_in_proportion(sign):
    frame = draw_frames(1, 40, 40)[0].astype(int)
    slope = sign * 0.3 * 7 / 10
    for name, pixels in (("shear_x", frame), ("shear_y", frame.transpose(1, 0, 2))):
        got = change(name, frame.astype(np.uint8), 7, sign)
        got = got if name == "shear_x" else got.transpose(1, 0, 2)
        for row in range(40):
            source = np.floor(np.arange(40) + 0.5 + slope * (row + 0.5)).astype(int)
            inside = (source >= 0) & (source < 40)
            expected = np.where(inside[:, None], pixels[row, np.clip(source, 0, 39)], 128)
            assert np.array_equal(got[row], expected), (name, row)


def test_rotation_is_30_degrees_at_most_and_turns_with_the_sign():
    frame = np.full((61, 61, 3), 200, np.uint8)
    frame[28:33, 45:50] = 0  # a dot to the right of the centre
    for sign in (1, -1):
        for magnitude, degrees in ((10, 30), (5, 15)):
            dot = np.argwhere(change("rotate", frame, magnitude, sign, BICUBIC)[..., 0] < 60)
            y, x = dot.mean(0) - 30
            # rows count downwards: counter-clockwise means towards smaller rows
            assert np.degrees(np.arctan2(-y, x)) == pytest.approx(sign * degrees, abs=1)
    assert change("rotate", frame, 10)[0, 0].tolist() == [128, 128, 128]


def test_geometry_is_resampled_as_the_transform_says():
    frames = draw_frames(1)
    clips = {
        name: [
            apply_transform({"rand_augment": {}, "interpolation": name}, frames, seed)
            for seed in range(12)
        ]
        for name in ("bicubic", "nearest")
    }
    assert any(not np.array_equal(a, b) for a, b in zip(*clips.values(), strict=True))
    got = change("rotate", frames[0], 7, 1, BICUBIC)
    expected = Image.fromarray(frames[0]).rotate(21, BICUBIC, fillcolor=(128, 128, 128))
    assert np.array_equal(got, np.asarray(expected))


def test_drawn_operations_are_uniform_half_of_four_and_of_the_right_strength():
    rng = np.random.default_rng(0)
    clips = [rand_augment.draw(rng, OPERATIONS, 4, 7.0, 0.5) for _ in range(3000)]
    numbers = np.bincount([len(clip) for clip in clips], minlength=5) / 3000
    np.testing.assert_allclose(numbers, np.array([1, 4, 6, 4, 1]) / 16, atol=0.03)
    drawn = [entry for clip in clips for entry in clip]
    counts = collections.Counter(name for name, _, _ in drawn)
    assert set(counts) == set(OPERATIONS)
    np.testing.assert_allclose(np.array(list(counts.values())) / len(drawn), 1 / 15, atol=0.015)
    magnitudes = np.array([magnitude for _, magnitude, _ in drawn])
    assert abs(magnitudes.mean() - 7) < 0.03 and abs(magnitudes.std() - 0.5) < 0.02
    assert abs(np.mean([sign for _, _, sign in drawn])) < 0.05
    assert {sign for _, _, sign in drawn} == {1, -1}
    # with replacement: four of fifteen differ with probability 0.65
    assert any(len({name for name, _, _ in clip}) < len(clip) for clip in clips)


def test_magnitudes_are_clipped():
    rng = np.random.default_rng(0)
    drawn = [entry for _ in range(200) for entry in rand_augment.draw(rng, OPERATIONS, 4, 9.0, 4.0)]
    magnitudes = [magnitude for _, magnitude, _ in drawn]
    assert max(magnitudes) == 10 and min(magnitudes) >= 0


def test_chance_comes_from_the_seed_and_frames_change_alike():
    frames = np.repeat(draw_frames(1), 3, axis=0)
    spec = {"rand_augment": {"ops": 4, "magnitude": 7, "deviation": 0.5}}
    clips = [apply_transform(spec, frames, seed) for seed in range(20)]
    again = [apply_transform({"rand_augment": {}}, frames, seed) for seed in range(20)]
    assert all(np.array_equal(a, b) for a, b in zip(clips, again, strict=True))
    assert len({clip.tobytes() for clip in clips}) > 12
    for clip in clips:
        assert clip.shape == frames.shape and clip.dtype == np.uint8
        assert np.array_equal(clip[0], clip[1]) and np.array_equal(clip[0], clip[2])


def test_frames_are_changed_before_they_are_resized():
    frames = draw_frames(1)
    both = {"resize": 32, "crop": 32, "rand_augment": {}}
    for seed in range(8):
        changed = apply_transform({"rand_augment": {}}, frames, seed)
        expected = apply_transform({"resize": 32, "crop": 32}, changed, 0)
        assert np.array_equal(apply_transform(both, frames, seed), expected)


def blip(name: str, pixels: np.ndarray, magnitude: float, sign: int = 1) -> np.ndarray:
    changed = BLIP_OPERATIONS[name](Image.fromarray(pixels), magnitude, sign, BICUBIC)
    return np.asarray(changed).astype(int)


def test_blip_changes_nothing_by_brightness_and_sharpness_at_its_own_magnitude():
    frame = draw_frames(1)[0]
    for name in ("identity", "brightness", "sharpness"):
        assert np.array_equal(blip(name, frame, 5), frame), name
    expected = np.clip(frame.astype(float) * (0.1 + 1.8 * 0.8), 0, 255)
    assert np.abs(blip("brightness", frame, 8) - expected).max() <= 1


@pytest.mark.parametrize("sign", [1, -1])
def test_blip_translates_by_pixels(sign):
    frame = draw_frames(1, 80, 80)[0]
    for name, axis in (("translate_x", 1), ("translate_y", 0)):
        got = blip(name, frame, 4, sign)
        moved = np.roll(frame.astype(int), -sign * 4, axis)
        moved.swapaxes(0, axis)[slice(-4, None) if sign > 0 else slice(4)] = 128
        assert np.array_equal(got, moved), name


def test_blip_draws_two_of_ten_and_half_of_them_are_applied():
    rng = np.random.default_rng(0)
    clips = [
        rand_augment.draw(rng, BLIP_OPERATIONS, **rand_augment.BLIP_DEFAULTS) for _ in range(3000)
    ]
    numbers = np.bincount([len(clip) for clip in clips], minlength=3) / 3000
    np.testing.assert_allclose(numbers, [0.25, 0.5, 0.25], atol=0.03)
    drawn = [entry for clip in clips for entry in clip]
    counts = collections.Counter(name for name, _, _ in drawn)
    assert len(BLIP_OPERATIONS) == 10 and set(counts) == set(BLIP_OPERATIONS)
    np.testing.assert_allclose(np.array(list(counts.values())) / len(drawn), 0.1, atol=0.02)
    assert {magnitude for _, magnitude, _ in drawn} == {5.0}


def test_blip_augments_what_was_resized():
    frames = draw_frames(2)
    resized = apply_transform({"resize": (32, 32)}, frames, 0)
    changed = 0
    for seed in range(12):
        got = apply_transform({"blip_augment": {}, "resize": (32, 32)}, frames, seed)
        assert np.array_equal(got, apply_transform({"blip_augment": {}}, resized, seed))
        changed += not np.array_equal(got, resized)
    assert 0 < changed < 12


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"opps": 4}, "unknown rand_augment option 'opps' .did you mean 'ops'"),
        ({"ops": 0}, "ops must be a whole number >= 1, got 0"),
        ({"ops": 2.5}, "ops must be a whole number >= 1, got 2.5"),
        ({"magnitude": 30}, "magnitude must be between 0 and 10, got 30"),
        ({"deviation": -1}, "deviation must be >= 0, got -1"),
    ],
)
def test_wrong_options(spec, message):
    with pytest.raises(ValueError, match=message):
        check_transform({"rand_augment": spec})


@pytest.mark.parametrize("magnitude", [0, 10])
def test_the_least_and_the_largest_magnitude(magnitude):
    check_transform({"rand_augment": {"magnitude": magnitude}})


def test_wrong_options_of_blip():
    with pytest.raises(ValueError, match="unknown blip_augment option 'deviation'"):
        check_transform({"blip_augment": {"deviation": 0.5}})
    with pytest.raises(ValueError, match="blip_augment magnitude must be between 0 and 10, got 11"):
        check_transform({"blip_augment": {"magnitude": 11}})
