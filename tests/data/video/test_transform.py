"""Transforms, against the same steps written out with Pillow."""

import colorsys

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from video_files import draw

from vlt.data.video import transform
from vlt.data.video.transform import apply_transform, check_transform


@pytest.mark.parametrize(("height", "width"), [(64, 96), (96, 64), (120, 40)])
def test_resize_and_crop_are_pillows_bicubic(height, width):
    frames = draw(2, height, width)
    short = min(height, width)
    size = (int(48 * width / short), int(48 * height / short))
    left, top = round((size[0] - 48) / 2), round((size[1] - 48) / 2)
    expected = [
        np.asarray(
            Image.fromarray(frame)
            .resize(size, Image.Resampling.BICUBIC)
            .crop((left, top, left + 48, top + 48))
        )
        for frame in frames
    ]
    # The steps have a fixed order, whatever the dict's.
    got = apply_transform({"crop": 48, "resize": 48}, frames, 0)
    assert np.array_equal(got, expected)
    assert got.flags.c_contiguous


def test_resize_to_a_size_and_by_another_interpolation():
    frames = draw(1)
    got = apply_transform({"resize": (20, 30), "interpolation": "nearest"}, frames, 0)
    expected = Image.fromarray(frames[0]).resize((30, 20), Image.Resampling.NEAREST)
    assert np.array_equal(got[0], np.asarray(expected))


def test_nothing_to_do_changes_nothing():
    frames = draw(3, 32, 32)
    assert apply_transform({}, frames, 0) is frames
    assert np.array_equal(apply_transform({"resize": 32, "crop": 32}, frames, 0), frames)


def test_token_mixing_s_resize_is_pillows_antialiased_bicubic_without_the_aspect():
    frames = draw(2, 240, 320)
    got = apply_transform({"resize": (224, 224)}, frames, 0)
    expected = [
        np.asarray(Image.fromarray(frame).resize((224, 224), Image.Resampling.BICUBIC))
        for frame in frames
    ]
    assert np.array_equal(got, expected)


def test_frames_have_draws_of_their_own_where_asked_for():
    frames = np.repeat(draw(1), 6, axis=0)
    spec = {
        "random_resized_crop": {"size": 32, "area": (0.5, 1.0)},
        "flip": 0.5,
        "blip_augment": {},
    }
    shared, own = (apply_transform(spec | {"per_frame": each}, frames, 3) for each in (False, True))
    assert own.shape == shared.shape == (6, 32, 32, 3) and own.flags.c_contiguous
    assert len({frame.tobytes() for frame in shared}) == 1
    assert len({frame.tobytes() for frame in own}) == 6
    assert np.array_equal(own, apply_transform(spec | {"per_frame": True}, frames, 3))
    assert np.array_equal(own[0], shared[0])


@pytest.mark.parametrize(
    "spec",
    [
        {"random_resized_crop": 32},
        {"random_crop": 32},
        {"flip": 0.5},
        {"jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}},
    ],
)
def test_chance_comes_from_the_seed_and_is_the_same_for_all_frames(spec):
    frames = np.repeat(draw(1), 3, axis=0)
    clips = [apply_transform(spec, frames, seed) for seed in range(6)]
    assert np.array_equal(clips[0], apply_transform(spec, frames, 0))
    assert any(not np.array_equal(clips[0], clip) for clip in clips[1:])
    for clip in clips:
        assert np.array_equal(clip[0], clip[1]) and np.array_equal(clip[0], clip[2])


def test_random_resized_crop_takes_parts_of_the_right_size_and_resizes_them():
    parts = [
        transform._random_part(90, 160, (0.08, 1.0), (3 / 4, 4 / 3), np.random.default_rng(seed))
        for seed in range(300)
    ]
    areas = np.array([h * w / (90 * 160) for _, _, h, w in parts])
    ratios = np.array([w / h for _, _, h, w in parts])
    assert areas.min() > 0.07 and areas.min() < 0.12 and areas.max() > 0.6
    assert ratios.min() > 0.7 and ratios.max() < 1.4
    assert {(top >= 0, left >= 0) for top, left, _, _ in parts} == {(True, True)}
    assert all(top + h <= 90 and left + w <= 160 for top, left, h, w in parts)
    # The part is cut out first: no pixel outside it affects the resizing.
    frames = draw(1, 88, 160)
    top, left, h, w = transform._random_part(
        88, 160, (0.08, 1.0), (3 / 4, 4 / 3), np.random.default_rng(4)
    )
    image = Image.fromarray(np.ascontiguousarray(frames[0, top : top + h, left : left + w]))
    expected = np.asarray(image.resize((24, 24), Image.Resampling.BICUBIC))
    assert np.array_equal(apply_transform({"random_resized_crop": 24}, frames, 4)[0], expected)


def test_random_resized_crop_falls_back_to_the_centre():
    part = transform._random_part(10, 200, (1.0, 1.0), (3 / 4, 4 / 3), np.random.default_rng(0))
    assert part == (0, (200 - 13) // 2, 10, 13)


def test_random_resized_crop_options():
    spec = {"random_resized_crop": {"size": 16, "area": (1.0, 1.0), "aspect": (1.0, 1.0)}}
    frames = draw(1, 64, 64)
    expected = Image.fromarray(frames[0]).resize((16, 16), Image.Resampling.BICUBIC)
    assert np.array_equal(apply_transform(spec, frames, 3)[0], np.asarray(expected))


def test_random_crop_reaches_every_corner():
    frames = np.arange(5 * 6 * 3, dtype=np.uint8).reshape(1, 5, 6, 3)
    corners = {int(apply_transform({"random_crop": 4}, frames, s)[0, 0, 0, 0]) for s in range(60)}
    assert corners == {0, 3, 6, 18, 21, 24}


def test_flip_mirrors_left_and_right():
    frames = draw(2)
    assert np.array_equal(apply_transform({"flip": 1.0}, frames, 0), frames[:, :, ::-1])
    assert np.array_equal(apply_transform({"flip": 0.0}, frames, 0), frames)


@pytest.mark.parametrize(
    ("name", "enhancer"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ],
)
def test_jitter_is_pillows_enhancement(name, enhancer):
    frames = draw(2)
    factor = np.random.default_rng(9).uniform(0.5, 1.5)
    expected = [np.asarray(enhancer(Image.fromarray(f)).enhance(factor)) for f in frames]
    assert np.array_equal(apply_transform({"jitter": {name: 0.5}}, frames, 9), expected)


def test_hue_turns_the_colour_circle():
    frames = np.full((1, 2, 2, 3), (200, 40, 40), np.uint8)
    turn = np.random.default_rng(1).uniform(-0.4, 0.4)
    got = apply_transform({"jitter": {"hue": 0.4}}, frames, 1)[0, 0, 0]
    hue = colorsys.rgb_to_hsv(*(got / 255))[0]
    assert (hue - turn + 0.5) % 1 - 0.5 == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"rezise": 3}, "unknown transform step 'rezise' .did you mean 'resize'"),
        ({"interpolation": "bicubik"}, "unknown interpolation 'bicubik' .did you mean 'bicubic'"),
        ({"jitter": {"huge": 0.1}}, "unknown jitter 'huge' .did you mean 'hue'"),
        ({"jitter": {"hue": 0.7}}, "hue must be between 0 and 0.5, got 0.7"),
        ({"flip": 50}, "flip must be a probability .* got 50"),
    ],
)
def test_wrong_specs(spec, message):
    with pytest.raises(ValueError, match=message):
        check_transform(spec)


def test_crop_larger_than_the_frames():
    with pytest.raises(ValueError, match="cannot crop 48 x 48 from frames of 32 x 40: resize"):
        apply_transform({"crop": 48}, draw(1, 32, 40), 0)
