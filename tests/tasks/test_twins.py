"""Twin accuracy on scores whose answer is known."""

import numpy as np
import pytest

from vlt.tasks.twins import mean_by_family, twin_accuracy


def test_one_right_and_one_wrong_pair_by_family() -> None:
    right, wrong = [[0.9, 0.1], [0.2, 0.8]], [[0.1, 0.9], [0.8, 0.2]]
    assert twin_accuracy([right, wrong, wrong], ["left_right", "grow", "grow"]) == {
        "twins_v2t": pytest.approx(100 / 3),
        "twins_v2t/grow": 0,
        "twins_v2t/left_right": 100,
        "twins_t2v": pytest.approx(100 / 3),
        "twins_t2v/grow": 0,
        "twins_t2v/left_right": 100,
    }


def test_directions_differ_when_one_video_attracts_both_captions() -> None:
    """Both videos prefer their own captions, but caption 1 prefers video 0."""
    result = twin_accuracy([[[0.9, 0.8], [0.1, 0.2]]], ["f"])
    assert (result["twins_v2t"], result["twins_t2v"]) == (100, 50)


def test_order_blind_model_gets_exactly_half() -> None:
    """A clip and its twin share an embedding, up to the rounding of another summation order."""
    rng = np.random.default_rng(0)
    video = rng.normal(size=(500, 1, 16)) * np.ones((1, 2, 1))
    video /= np.linalg.norm(video, axis=-1, keepdims=True)
    video += rng.uniform(-1e-7, 1e-7, video.shape)
    text = rng.normal(size=(500, 2, 16))
    text /= np.linalg.norm(text, axis=-1, keepdims=True)
    scores = np.einsum("pid,pjd->pij", video, text).astype(np.float32)
    families = [f"family_{i % 5}" for i in range(500)]
    result = twin_accuracy(scores, families)
    assert len(result) == 2 * 6
    assert set(result.values()) == {50.0}


@pytest.mark.parametrize(("gap", "expected"), [(0.0, 50), (0.9e-5, 50), (1.1e-5, 100)])
def test_ties_are_at_most_1e_5_apart(gap: float, expected: float) -> None:
    scores = np.array([[[gap, 0], [0, gap]]])
    assert twin_accuracy(scores, ["f"])["twins_v2t"] == expected


def test_bad_scores_are_errors() -> None:
    with pytest.raises(ValueError, match=r"\[pairs, 2, 2\]"):
        twin_accuracy(np.zeros((3, 2, 2)), ["f", "f"])
    with pytest.raises(ValueError, match="pair 1 has NaN"):
        twin_accuracy([np.zeros((2, 2)), [[0, np.nan], [0, 0]]], ["f", "f"])


def test_mean_by_family() -> None:
    assert mean_by_family(np.array([1.0, 2.0, 4.0]), ["b", "a", "a"]) == {"a": 3.0, "b": 1.0}
