"""Colour changes, crops and views for recognition, against the same in plain numpy."""

import colorsys
import itertools

import numpy as np
import pytest
from PIL import Image
from video_files import draw, write

from vlt.data.video import transform
from vlt.data.video.clips import ClipRequest, read_clip
from vlt.data.video.sample import sample
from vlt.data.video.transform import apply_transform, check_transform

# The values of X-CLIP and ViFi-CLIP.
PUBLISHED = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1}


def places(height: int, width: int, shift: int = 0) -> np.ndarray:
    """A frame whose pixels encode their position: uint8 [1, H, W, 3] of row, column, frame."""
    rows, columns = np.mgrid[:height, :width]
    frame = np.stack([rows, columns % 256, columns // 256 + 2 * shift], -1)
    return frame[None].astype(np.uint8)


def luma(frame: np.ndarray) -> np.ndarray:
    """ITU-R 601 luma, [h, w]."""
    return np.round(frame @ np.array([0.299, 0.587, 0.114]))


def blended(frame: np.ndarray, ground: np.ndarray | float, factor: float) -> np.ndarray:
    return np.clip(ground + factor * (frame - ground), 0, 255)


def turned(frame: np.ndarray, turn: float) -> np.ndarray:
    def one(pixel: np.ndarray) -> list[float]:
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel / 255)
        return [255 * part for part in colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)]

    return np.apply_along_axis(one, -1, frame)


CHANGES = {
    "brightness": lambda frame, factor: blended(frame, 0.0, factor),
    "contrast": lambda frame, factor: blended(frame, np.round(luma(frame).mean()), factor),
    "saturation": lambda frame, factor: blended(frame, luma(frame)[..., None], factor),
    "hue": turned,
}


def drawn(rng: np.random.Generator) -> list[tuple[str, float]]:
    """Draws the changes' order and amounts from torchvision's distributions."""
    amounts = []
    for name in sorted(PUBLISHED):
        low, high = (0, 0) if name == "hue" else (1, 1)
        amounts.append((name, rng.uniform(low - PUBLISHED[name], high + PUBLISHED[name])))
    return [amounts[i] for i in rng.permutation(len(amounts))]


@pytest.mark.parametrize("per_frame", [False, True])
def test_jitter_is_the_equations_with_draws_for_each_frame_or_for_the_clip(per_frame):
    frames, seed = draw(3, 16, 24), 5
    spec = PUBLISHED | {"probability": 0.99, "per_frame": per_frame}
    got = apply_transform({"jitter": spec}, frames, seed).astype(float)
    rng = np.random.default_rng(seed)
    rng.random()  # the coin toss
    every = [drawn(rng) for _ in frames] if per_frame else [drawn(rng)] * len(frames)
    for frame, changes, found in zip(frames.astype(float), every, got, strict=True):
        for name, amount in changes:
            frame = CHANGES[name](frame, amount)
        # Each change rounds, and Pillow's hue circle has 256 steps.
        assert np.abs(frame - found).mean() < 2 and np.abs(frame - found).max() < 16


def test_one_coin_decides_for_the_whole_clip():
    frames = np.repeat(draw(1, 8, 8), 4, axis=0)
    jitter = PUBLISHED | {"probability": 0.8, "per_frame": True}
    for step, probability in (({"jitter": jitter}, 0.8), ({"grayscale": 0.2}, 0.2)):
        clips = [apply_transform(step, frames, seed) for seed in range(400)]
        changed = np.array([(clip != frames).any((1, 2, 3)) for clip in clips])
        assert (changed.all(1) == changed.any(1)).all()
        assert changed.mean() == pytest.approx(probability, abs=0.06)
    assert np.array_equal(clips[7], apply_transform(step, frames, 7))


def test_frames_differ_only_where_their_draws_do():
    frames = np.repeat(draw(1, 8, 8), 4, axis=0)
    for per_frame in (False, True):
        spec = {"jitter": PUBLISHED | {"per_frame": per_frame}}
        clip = apply_transform(spec, frames, 3)
        assert len({frame.tobytes() for frame in clip}) == (4 if per_frame else 1)


def test_grayscale_is_luma_in_all_channels():
    frames = draw(2, 16, 24)
    got = apply_transform({"grayscale": 1.0}, frames, 0)
    assert got.shape == frames.shape and (got == got[..., :1]).all()
    np.testing.assert_allclose(got[..., 0], [luma(frame) for frame in frames], atol=1)


@pytest.mark.slow
def test_multi_scale_crop_takes_ten_shapes_at_five_places(monkeypatch):
    """256 x 340: sides of 256, 224, 192 and 168, at most one step apart."""
    taken = []
    monkeypatch.setattr(transform, "_resize_to", lambda part, *_: taken.append(part) or part)
    for seed in range(3000):
        apply_transform({"multi_scale_crop": 224}, places(256, 340), seed)
    found = [
        (int(part[0, 0, 0, 0]), int(part[0, 0, 0, 1]) + 256 * int(part[0, 0, 0, 2]))
        + part.shape[1:3]
        for part in taken
    ]
    sides = (256, 224, 192, 168)
    shapes = [(sides[i], sides[j]) for i in range(4) for j in range(4) if abs(i - j) <= 1]
    assert len(shapes) == 10
    expected: dict[tuple[int, ...], float] = {}
    for h, w in shapes:
        down, right = (256 - h) // 4, (340 - w) // 4
        for top, left in itertools.product((0, 4 * down), (0, 4 * right)):
            place = (top, left, h, w)
            expected[place] = expected.get(place, 0) + 1 / 50
        place = (2 * down, 2 * right, h, w)
        expected[place] = expected.get(place, 0) + 1 / 50
    assert set(found) == set(expected)
    for place, share in expected.items():
        assert found.count(place) / len(found) == pytest.approx(share, abs=0.015)


def test_multi_scale_crop_resizes_what_it_takes():
    frames = draw(2, 64, 96)
    spec = {"multi_scale_crop": 24, "interpolation": "bilinear"}
    got = apply_transform(spec, frames, 11)
    parts = [
        frames[:, top : top + h, left : left + w]
        for h, w in itertools.product((64, 56, 48, 42), repeat=2)
        for top in {0, (64 - h) // 4 * 2, (64 - h) // 4 * 4}
        for left in {0, (96 - w) // 4 * 2, (96 - w) // 4 * 4}
    ]
    resized = [
        [np.asarray(Image.fromarray(frame).resize((24, 24), 2)) for frame in part]
        for part in map(np.ascontiguousarray, parts)
    ]
    assert any(np.array_equal(got, each) for each in resized)


@pytest.mark.parametrize(
    ("height", "width", "corners"),
    [
        (32, 45, [(0, 0), (0, 6), (0, 12)]),  # 13 pixels of slack: the last crop stops one short
        (51, 32, [(0, 0), (9, 0), (18, 0)]),
        (32, 32, [(0, 0), (0, 0), (0, 0)]),
        (36, 52, [(2, 0), (2, 10), (2, 20)]),
    ],
)
def test_three_crops_are_both_ends_and_the_middle(height, width, corners):
    clip = np.concatenate([places(height, width, shift) for shift in range(2)])
    got = apply_transform({"three_crops": 32}, clip, 0)
    expected = [clip[:, top : top + 32, left : left + 32] for top, left in corners]
    assert got.shape == (6, 32, 32, 3)
    np.testing.assert_array_equal(got, np.concatenate(expected))
    again = apply_transform({"three_crops": 32, "resize": 32, "crop": 32}, clip[:, :32, :32], 0)
    np.testing.assert_array_equal(again, np.concatenate([clip[:, :32, :32]] * 3))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"grayscale": 2}, "grayscale must be a probability .* got 2"),
        ({"jitter": {"hue": 0.1, "probability": -1}}, "jitter probability must be a prob.* got -1"),
        ({"jitter": {"probabilty": 0.1}}, "did you mean 'probability'"),
        ({"three_crops": 8, "per_frame": True}, "per_frame and three_crops cannot be combined"),
        ({"multiscale_crop": 8}, "did you mean 'multi_scale_crop'"),
    ],
)
def test_wrong_steps(spec, message):
    with pytest.raises(ValueError, match=message):
        check_transform(spec)


def test_crops_larger_than_the_frames():
    with pytest.raises(ValueError, match="cannot crop 48 x 48 from frames of 32 x 64: resize"):
        apply_transform({"three_crops": 48}, draw(1, 32, 64), 0)


@pytest.mark.parametrize("name", ["random_segments", "segment_centre"])
def test_views_are_crop_by_crop_and_in_each_clip_by_clip(tmp_path, name):
    frames = draw(60, 32, 48)
    path = write(tmp_path / "v.mkv", frames, "ffv1", pix_fmt="bgr0")
    got = read_clip(ClipRequest(str(path), name, 4, {"three_crops": 32}, seed=2, clips=3))
    indices = sample(name, 60, 4, rng=np.random.default_rng((2, 1)), clips=3)
    expected = [frames[indices][:, :, left : left + 32] for left in (0, 8, 16)]
    np.testing.assert_array_equal(got, np.concatenate(expected))
