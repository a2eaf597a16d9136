"""Arguments of the Python interface are right, or refused with what came and what is needed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from vlt.arguments import as_ids, as_texts, as_video, looks_unnormalised
from vlt.models.spec import VisionSpec

SPEC = VisionSpec(16, 8, 8, 1, 2, 16)
RNG = np.random.default_rng(0)
VIDEO = RNG.integers(0, 256, (2, 3, 16, 16, 3), np.uint8)
NORMALISED = RNG.normal(size=VIDEO.shape).astype(np.float32)


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        (VIDEO, VIDEO),
        (NORMALISED, NORMALISED),
        ([VIDEO[0], VIDEO[1]], VIDEO),
        (tuple([*video] for video in VIDEO), VIDEO),
        (jnp.asarray(VIDEO), VIDEO),
        ([jnp.asarray(VIDEO[0])], VIDEO[:1]),
        (torch.from_numpy(VIDEO), VIDEO),
        ([torch.from_numpy(NORMALISED[0])], NORMALISED[:1]),
    ],
)
def test_arrays_and_lists_of_equal_ones_are_videos(frames, expected):
    found = as_video(frames, SPEC)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (None, r"frames are None.*\[b, t, H, W, 3\] are needed"),
        (3, "frames are 3, of type int"),
        ({"a": VIDEO}, "of type dict"),
        ([], r"frames have shape \(0,\), which holds none"),
        ([None], "None, of type NoneType"),
        (VIDEO[:0], r"\(0, 3, 16, 16, 3\), which holds none"),
        (VIDEO[:, :0], r"\(2, 0, 16, 16, 3\), which holds none"),
        (VIDEO[0], r"\(3, 16, 16, 3\).*frames\[None\] is a batch of one"),
        (VIDEO[0, 0], r"frames have shape \(16, 16, 3\)"),
        (VIDEO[:, :, :8], r"\(2, 3, 8, 16, 3\), but the tower takes \(16, 16, 3\).*resize"),
        (np.moveaxis(VIDEO, -1, 2), r"channels come first: np.moveaxis\(frames, 2, -1\)"),
        (np.moveaxis(VIDEO[:, :2], -1, 1), r"channels come first: np.moveaxis\(frames, 1, -1\)"),
        (np.zeros((1, 2, 16, 16, 4), np.uint8), r"4 channels: frames\[..., :3\] leaves RGB"),
        (np.zeros((1, 2, 16, 16, 1), np.uint8), "1 channels: .* makes grey RGB"),
        ([["a.mp4"]], "frames.*'a.mp4', of type str; uint8 RGB"),
        (np.array([None, VIDEO], object), "of type ndarray"),
        ([VIDEO[0], VIDEO[1, :2]], r"frames\[1\] is uint8 \(2, 16, 16, 3\).*all alike"),
        ([VIDEO[0], NORMALISED[0]], r"frames\[1\] is float32 .*all alike"),
        (VIDEO.astype(np.int64), r"int64.*astype\(np.uint8\)"),
        (VIDEO.tolist(), r"int64.*astype\(np.uint8\)"),
        (NORMALISED.astype(np.float64), r"float64.*astype\(np.float32\)"),
        (VIDEO.astype(np.float32), r"float32 from 0 to 255, so not normalised; give uint8"),
        (np.where(NORMALISED > 3, np.nan, NORMALISED), r"\d+ values that are not finite"),
        (np.full_like(NORMALISED, np.inf), r"the first at \[0, 0, 0, 0, 0\]"),
        (jnp.full((1, 2, 16, 16, 3), jnp.nan), "not finite"),
        (torch.zeros(1, 2, 16, 16, 3, requires_grad=True), "not an array .*requires grad"),
    ],
)  # fmt: skip
def test_other_frames_are_refused(frames, message):
    with pytest.raises(ValueError, match=message):
        as_video(frames, SPEC)


def test_floats_from_0_to_1_look_as_if_they_were_not_normalised():
    assert looks_unnormalised(jnp.asarray(VIDEO / np.float32(255)))
    assert not looks_unnormalised(jnp.asarray(VIDEO))
    assert not looks_unnormalised(jnp.asarray(NORMALISED))


def test_programs_may_hold_the_call():
    """The shape and type of traced arrays are known, and are checked."""
    np.testing.assert_array_equal(jax.jit(lambda x: as_video(x, SPEC))(NORMALISED), NORMALISED)
    with pytest.raises(ValueError, match="the tower takes"):
        jax.eval_shape(lambda x: as_video(x, SPEC), NORMALISED[0])


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ("a", ["a"]),
        (("a", ""), ["a", ""]),
        (np.array(["a", "b"]), ["a", "b"]),
        (np.array(["a", "b"], object), ["a", "b"]),
        ([[1, 2]], None),
        (np.array([[1, 2]]), None),
    ],
)
def test_texts(texts, expected):
    assert as_texts(texts) == expected


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (None, "texts are None; a text, texts or token ids"),
        ([], "no text"),
        (b"a", "texts are b'a'"),
        ((text for text in "ab"), "generator"),
        (["a", 3], "text 1 is 3, of type int, not a text"),
        (["a", None], "text 1 is None"),
        (["a", "b \ud83d"], "text 1 has half of a character at place 2"),
    ],
)
def test_other_texts_are_refused(texts, message):
    with pytest.raises(ValueError, match=message):
        as_texts(texts)


@pytest.mark.parametrize(
    "ids",
    [[[1, 4]], np.array([[1, 4]], np.uint8), jnp.array([[1, 4]]), torch.tensor([[1, 4]])],
)
def test_ids(ids):
    found = as_ids(ids, vocab=5, context=6)
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found, [[1, 4]])


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[0, 5]], r"token id 5 at \[0, 1\]; .* from 0 to 4, l <= 6"),
        ([[0], [-1]], r"token id -1 at \[1, 0\]"),
        (np.array([[2**63]], np.uint64), "token id 9223372036854775808"),
        (np.array([[1.0]]), "token ids are float64"),
        (np.array([[True]]), "token ids are bool"),
        ([1, 2], r"shape \(2,\).*ids\[None\]"),
        ([[[1]]], r"shape \(1, 1, 1\)"),
        ([[1] * 7], r"shape \(1, 7\)"),
        (np.zeros((0, 3), int), r"shape \(0, 3\)"),
        ([[1, 2], [3]], "all alike"),
        ([["a"]], "'a', of type str"),
        ([None], "None, of type NoneType"),
    ],
)
def test_other_ids_are_refused(ids, message):
    with pytest.raises(ValueError, match=message):
        as_ids(ids, vocab=5, context=6)
