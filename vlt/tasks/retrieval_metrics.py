"""Retrieval and recognition metrics from a similarity matrix, in numpy, on the host."""

import numpy as np

RECALL_AT = (1, 5, 10, 50)
SUMMED = (1, 5, 10)  # recalls of R-Sum
TIES = ("against", "published")


def retrieval_metrics(
    similarity: np.ndarray, video_of_text: np.ndarray, ties: str = "against"
) -> dict[str, float]:
    """Text-to-video (t2v) and video-to-text (v2t) retrieval.

    With several captions to a video, every caption is a query of t2v; in v2t a video is ranked by
    its best true caption among all captions, and its other true captions never count against it.

    Args:
      similarity: [texts, videos], higher is closer.
      video_of_text: int [texts], the column of each text's video.
      ties: 'against' ranks a query behind every wrong candidate that scores at least as high as
        its best true one, so that a constant model finds nothing. 'published' is the papers'
        rule (CLIP4Clip, BT-Adapter, TempMe): each candidate that equals the best true one adds a
        rank of its own to those averaged, the first and the last of the tie included.

    Returns:
      `t2v_R@1`, `_R@5`, `_R@10`, `_R@50` (percent), `_MdR`, `_MnR` (ranks from 1), `_R-Sum` (the
      sum of this direction's first three recalls), and the same with `v2t_`.

    Raises:
      ValueError: NaNs, shapes that disagree, or a video without a text.
    """
    similarity, video_of_text = np.asarray(similarity), np.asarray(video_of_text)
    true = _true_pairs(similarity, video_of_text)
    return {
        **_summary("t2v", _ranks(similarity, true, ties)),
        **_summary("v2t", _ranks(similarity.T, true.T, ties)),
    }


def recognition_metrics(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Top-1 and top-5 accuracy, and the mean of the classes' own top-1, in percent.

    Ties count against the true class. A class without videos is not in the mean.

    Args:
      scores: [videos, classes], higher is likelier.
      labels: int [videos], the true class.

    Raises:
      ValueError: NaNs, shapes that disagree, or a label that is no class.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    ranks = _ranks(scores, _true_pairs(scores, labels, every_column=False), "against")
    own = [_percent(ranks[labels == label] == 1) for label in np.unique(labels)]
    return {f"top{k}": _percent(ranks <= k) for k in (1, 5)} | {"mean_class": float(np.mean(own))}


def confusion_counts(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many videos of each class are taken for each: int [true, predicted].

    As `recognition_metrics` counts: of equal scores the true class has none of its own.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    true = _true_pairs(scores, labels, every_column=False)
    others = np.where(true, -np.inf, scores)
    found = np.where(_ranks(scores, true, "against") == 1, labels, others.argmax(1))
    counts = np.zeros((scores.shape[1],) * 2, int)
    np.add.at(counts, (labels, found), 1)
    return counts


def _true_pairs(scores: np.ndarray, truth: np.ndarray, every_column: bool = True) -> np.ndarray:
    """One-hot rows of `truth`, after the checks of both metrics."""
    if scores.ndim != 2 or not scores.size or truth.shape != scores.shape[:1]:
        raise ValueError(
            f"scores {scores.shape} and true columns {truth.shape}: "
            "need [queries, candidates], not empty, and [queries]"
        )
    if np.isnan(scores).any():
        row, column = np.argwhere(np.isnan(scores))[0]
        raise ValueError(
            f"{np.isnan(scores).sum()} of {scores.size} scores are NaN, "
            f"the first at row {row}, column {column}"
        )
    true = truth[:, None] == np.arange(scores.shape[1])
    if not true.any(1).all():
        row = np.flatnonzero(~true.any(1))[0]
        raise ValueError(
            f"row {row}: true column {truth[row]} is not one of 0 to {scores.shape[1] - 1}"
        )
    if every_column and not true.any(0).all():
        raise ValueError(f"video {np.flatnonzero(~true.any(0))[0]} has no text")
    return true


def _ranks(scores: np.ndarray, true: np.ndarray, ties: str) -> np.ndarray:
    """Ranks from 1, one a query, or with 'published' one for each candidate of a tie."""
    if ties not in TIES:
        raise ValueError(f"unknown ties: {ties!r}; choose from {', '.join(TIES)}")
    best = np.where(true, scores, -np.inf).max(1, keepdims=True)
    if ties == "against":
        return 1 + ((scores >= best) & ~true).sum(1)
    tied = scores == best
    first = 1 + (scores > best).sum(1, keepdims=True)
    return (first + tied.cumsum(1) - 1)[tied]


def _summary(direction: str, ranks: np.ndarray) -> dict[str, float]:
    recalls = {f"R@{k}": _percent(ranks <= k) for k in RECALL_AT}
    values = recalls | {
        "MdR": float(np.median(ranks)),
        "MnR": float(ranks.mean()),
        "R-Sum": sum(recalls[f"R@{k}"] for k in SUMMED),
    }
    return {f"{direction}_{name}": value for name, value in values.items()}


def _percent(hits: np.ndarray) -> float:
    return 100 * float(hits.mean())
