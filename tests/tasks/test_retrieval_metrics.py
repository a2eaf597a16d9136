"""Metrics on matrices whose ranks are read off by eye, and against the papers' own procedure."""

import numpy as np
import pytest

from vlt.tasks.retrieval_metrics import (
    TIES,
    confusion_counts,
    recognition_metrics,
    retrieval_metrics,
)


def test_ranks_of_a_small_matrix() -> None:
    similarity = np.array(
        [
            [0.9, 0.1, 0.2],  # t2v rank 1
            [0.8, 0.3, 0.1],  # rank 2
            [0.7, 0.6, 0.5],  # rank 3
        ]
    )
    metrics = retrieval_metrics(similarity, np.arange(3))
    assert metrics == pytest.approx(
        {
            "t2v_R@1": 100 / 3,
            "t2v_R@5": 100,
            "t2v_R@10": 100,
            "t2v_R@50": 100,
            "t2v_MdR": 2,
            "t2v_MnR": 2,
            "t2v_R-Sum": 100 / 3 + 200,
            "v2t_R@1": 200 / 3,  # videos 0 and 2; video 1 prefers text 2
            "v2t_R@5": 100,
            "v2t_R@10": 100,
            "v2t_R@50": 100,
            "v2t_MdR": 1,
            "v2t_MnR": 4 / 3,
            "v2t_R-Sum": 200 / 3 + 200,
        }
    )


def test_recalls_and_their_sum_at_known_ranks() -> None:
    """Text i of 100 finds its video at rank i + 1, in both directions."""
    similarity = np.triu(np.ones((100, 100)), 1).T  # row i: i videos above its own
    np.fill_diagonal(similarity, 0.5)
    metrics = retrieval_metrics(similarity, np.arange(100))
    for direction in ("t2v", "v2t"):
        recalls = [metrics[f"{direction}_R@{k}"] for k in (1, 5, 10, 50)]
        assert recalls == [1, 5, 10, 50]
        assert metrics[f"{direction}_R-Sum"] == 16
        assert metrics[f"{direction}_MdR"] == metrics[f"{direction}_MnR"] == 50.5


def test_constant_model_finds_nothing() -> None:
    metrics = retrieval_metrics(np.ones((20, 20)), np.arange(20))
    for direction in ("t2v", "v2t"):
        assert [metrics[f"{direction}_R@{k}"] for k in (1, 5, 10)] == [0, 0, 0]
        assert metrics[f"{direction}_MdR"] == metrics[f"{direction}_MnR"] == 20


def test_published_ties_add_a_rank_each() -> None:
    """A constant model of 4 pairs: every query contributes ranks 1, 2, 3, 4."""
    metrics = retrieval_metrics(np.ones((4, 4)), np.arange(4), ties="published")
    assert metrics["t2v_R@1"] == metrics["v2t_R@1"] == 25
    assert metrics["t2v_MnR"] == 2.5


@pytest.mark.parametrize("levels", [4, 10_000])
def test_published_rule_is_the_papers_procedure(levels: int) -> None:
    """Positions of the true value in each sorted row, with all ties (few levels give many)."""
    similarity = np.random.default_rng(1).integers(0, levels, (30, 30)).astype(np.float32)
    metrics = retrieval_metrics(similarity, np.arange(30), ties="published")
    for direction, matrix in (("t2v", similarity), ("v2t", similarity.T)):
        descending = -np.sort(-matrix, axis=1)
        positions = np.nonzero(descending == np.diag(matrix)[:, None])[1]
        assert metrics[f"{direction}_R@5"] == pytest.approx(100 * (positions < 5).mean())
        assert metrics[f"{direction}_MdR"] == np.median(positions) + 1
        assert metrics[f"{direction}_MnR"] == pytest.approx(positions.mean() + 1)


def test_rules_agree_without_ties() -> None:
    similarity = np.random.default_rng(2).permutation(400).reshape(20, 20)
    against = retrieval_metrics(similarity, np.arange(20))
    assert against == pytest.approx(retrieval_metrics(similarity, np.arange(20), "published"))


def test_several_captions_to_a_video() -> None:
    """Texts 0 and 1 describe video 0, texts 2 and 3 video 1."""
    similarity = np.array([[0.9, 0.1], [0.2, 0.6], [0.8, 0.7], [0.1, 0.5]])
    metrics = retrieval_metrics(similarity, np.array([0, 0, 1, 1]))
    assert metrics["t2v_R@1"] == 50  # texts 0 and 3
    assert metrics["t2v_MnR"] == 1.5
    assert metrics["v2t_R@1"] == 100  # text 0 wins video 0, text 2 video 1
    assert metrics["v2t_MdR"] == 1


def test_two_equal_true_captions_do_not_spoil_each_other() -> None:
    similarity = np.array([[0.9, 0.0], [0.9, 0.0], [0.1, 0.8]])
    for ties in TIES:
        assert retrieval_metrics(similarity, np.array([0, 0, 1]), ties)["v2t_MnR"] == 1
    tied = np.array([[0.9, 0.0], [0.9, 0.8], [0.9, 0.8]])  # both videos have a wrong text in a tie
    assert retrieval_metrics(tied, np.array([0, 0, 1]), "published")["v2t_MnR"] == 1.5


def test_order_of_the_gallery_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    similarity, truth = rng.integers(0, 9, (40, 10)), np.repeat(np.arange(10), 4)
    texts, videos = rng.permutation(40), rng.permutation(10)
    shuffled = similarity[texts][:, videos]
    position = np.argsort(videos)
    assert retrieval_metrics(similarity, truth) == retrieval_metrics(
        shuffled, position[truth[texts]]
    )


@pytest.mark.parametrize(
    ("similarity", "truth", "message"),
    [
        (np.array([[0.0, np.nan], [0.0, 1.0]]), [0, 1], "1 of 4 scores are NaN.*row 0, column 1"),
        (np.zeros((2, 2)), [0, 2], "row 1: true column 2 is not one of 0 to 1"),
        (np.zeros((2, 2)), [0, -1], "row 1: true column -1"),
        (np.zeros((2, 2)), [0], "need"),
        (np.zeros((0, 0)), [], "not empty"),
        (np.zeros((2, 3)), [0, 2], "video 1 has no text"),
    ],
)
def test_bad_input_is_an_error(similarity: np.ndarray, truth: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        retrieval_metrics(similarity, np.array(truth))


def test_unknown_rule_for_ties() -> None:
    with pytest.raises(ValueError, match="unknown ties: 'lucky'"):
        retrieval_metrics(np.eye(2), np.arange(2), ties="lucky")


def test_recognition() -> None:
    scores = np.array([[5, 4, 3, 2, 1, 0], [5, 4, 3, 2, 1, 0], [5, 4, 3, 2, 1, 0]])
    assert recognition_metrics(scores, np.array([0, 4, 5])) == pytest.approx(
        {"top1": 100 / 3, "top5": 200 / 3, "mean_class": 100 / 3}
    )


def test_mean_class_counts_classes_alike_and_those_without_videos_not_at_all() -> None:
    """Class 0 is found in 3 of 4 videos, class 2 in 0 of 1; class 1 has no videos."""
    scores = np.eye(3)[[0, 0, 0, 1, 0]]
    found = recognition_metrics(scores, np.array([0, 0, 0, 0, 2]))
    assert (found["top1"], found["mean_class"]) == (60, 37.5)


def test_recognition_ties_count_against() -> None:
    found = recognition_metrics(np.ones((3, 10)), np.arange(3))
    assert found == {"top1": 0, "top5": 0, "mean_class": 0}


def test_confusion_counts_agree_with_the_metrics() -> None:
    """Even with many ties, the diagonal is top-1."""
    rng = np.random.default_rng(5)
    scores, labels = rng.integers(0, 4, (200, 6)), rng.integers(0, 6, 200)
    counts = confusion_counts(scores, labels)
    assert counts.sum(1).tolist() == np.bincount(labels).tolist()
    metrics = recognition_metrics(scores, labels)
    assert 100 * counts.trace() / 200 == pytest.approx(metrics["top1"])
    assert 100 * (counts.diagonal() / counts.sum(1)).mean() == pytest.approx(metrics["mean_class"])
    plain = np.zeros((6, 6), int)
    for row, label in zip(scores, labels, strict=True):
        best = [c for c in range(6) if row[c] == row.max()]
        plain[label, next((c for c in best if c != label), label)] += 1
    np.testing.assert_array_equal(counts, plain)


def test_recognition_refuses_a_label_that_is_no_class() -> None:
    with pytest.raises(ValueError, match="true column 6"):
        recognition_metrics(np.zeros((2, 6)), np.array([0, 6]))


def test_equal_texts_share_their_videos() -> None:
    """The first two captions are equal: either's video is right for both, and vice versa."""
    similarity = np.array([[0.1, 0.9, 0.0], [0.8, 0.2, 0.1], [0.0, 0.1, 0.3]])
    truth, texts = np.arange(3), ["a dog", "a dog", "a cat"]
    apart = retrieval_metrics(similarity, truth)
    shared = retrieval_metrics(similarity, truth, texts=texts)
    assert (apart["t2v_R@1"], shared["t2v_R@1"]) == (pytest.approx(100 / 3), 100)
    assert (apart["v2t_R@1"], shared["v2t_R@1"]) == (pytest.approx(100 / 3), 100)
    assert retrieval_metrics(similarity, truth, texts=["a", "b", "c"]) == apart
