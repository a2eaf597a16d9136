"""Retrieval and recognition metrics from a similarity matrix, in numpy, on the host."""

from collections.abc import Sequence

import numpy as np

RECALL_AT = (1, 5, 10, 50)
SUMMED = (1, 5, 10)  # recalls of R-Sum
TIES = ("against", "published")


def retrieval_metrics(
    similarity: np.ndarray,
    video_of_text: np.ndarray,
    ties: str = "against",
    texts: Sequence[str] | None = None,
) -> dict[str, float]:
    """Text-to-video (t2v) and video-to-text (v2t) retrieval.

    With several captions per video, every caption is a query of t2v; in v2t a video is ranked by
    its best true caption among all captions, and its other true captions never count against it.

    Args:
      similarity: [texts, videos], higher is closer.
      video_of_text: int [texts], the column of each text's video.
      ties: 'against' ranks a query behind every wrong candidate that scores at least as high as
        its best true one, so that a constant model finds nothing. 'published' is the papers'
        rule (CLIP4Clip, BT-Adapter, TempMe): the best true candidate and each wrong one that equals
        it add a rank of their own to those averaged, the first and the last of the tie included.
      texts: if given, equal texts share their videos, each of which is right.

    Returns:
      `t2v_R@1`, `_R@5`, `_R@10`, `_R@50` (percent), `_MdR`, `_MnR` (ranks from 1), `_R-Sum` (the
      sum of this direction's first three recalls), and the same with `v2t_`.

    Raises:
      ValueError: NaNs, shapes that disagree, or a video without a text.
    """
    similarity, video_of_text = np.asarray(similarity), np.asarray(video_of_text)
    true = _true_pairs(similarity, video_of_text)
    if texts is not None:
        _, same = np.unique(np.asarray(texts), return_inverse=True)
        videos = np.zeros((same.max() + 1, true.shape[1]), bool)
        np.logical_or.at(videos, same, true)
        true = videos[same]
    return {
        **_summary("t2v", _ranks(similarity, true, ties)),
        **_summary("v2t", _ranks(similarity.T, true.T, ties)),
    }


def recognition_metrics(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Top-1 and top-5 accuracy, and the mean of the top-1 accuracies of classes, in percent.

    Ties count against the true class. A class without videos is left out of the mean.

    Args:
      scores: [videos, classes], higher is likelier.
      labels: int [videos], the true class.

    Raises:
      ValueError: NaNs, shapes that disagree, or a label that is not a class.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    ranks = _ranks(scores, _true_pairs(scores, labels, every_column=False), "against")
    own = [_percent(ranks[labels == label] == 1) for label in np.unique(labels)]
    return {f"top{k}": _percent(ranks <= k) for k in (1, 5)} | {"mean_class": float(np.mean(own))}


def confusion_counts(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many videos of each class are taken for each class: int [true, predicted].

    Ties count against the true class, as in `recognition_metrics`.
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
    truth = checked_truth(truth, scores.shape, every_column)
    return truth[:, None] == np.arange(scores.shape[1])


def checked_truth(
    truth: np.ndarray, shape: tuple[int, ...], every_column: bool = True
) -> np.ndarray:
    """Checks and returns the true columns [n] of scores of shape [n, v].

    Raises:
      ValueError: shapes that disagree, an entry that is not a column, or, with `every_column`, a
        column that no row has.
    """
    queries, candidates = shape
    if not queries or not candidates or truth.shape != (queries,):
        raise ValueError(
            f"scores {shape} and true columns {truth.shape}: "
            "need [queries, candidates], not empty, and [queries]"
        )
    wrong = np.flatnonzero((truth < 0) | (truth >= candidates))
    if len(wrong):
        row = wrong[0]
        raise ValueError(f"row {row}: true column {truth[row]} is not one of 0 to {candidates - 1}")
    unused = np.flatnonzero(np.bincount(truth, minlength=candidates) == 0)
    if every_column and len(unused):
        raise ValueError(f"video {unused[0]} has no text")
    return truth


def _ranks(scores: np.ndarray, true: np.ndarray, ties: str) -> np.ndarray:
    """Ranks from 1, one per query, or with 'published' one for each candidate of a tie."""
    if ties not in TIES:
        raise ValueError(f"unknown ties: {ties!r}; choose from {', '.join(TIES)}")
    best = np.where(true, scores, -np.inf).max(1, keepdims=True)
    if ties == "against":
        return 1 + ((scores >= best) & ~true).sum(1)
    tied = scores == best
    tied &= ~true | ((tied & true).cumsum(1) == 1)  # other true candidates never count
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


def summary_of_counts(
    direction: str, above: np.ndarray, least: np.ndarray, ties: str
) -> dict[str, float]:
    """The metrics of one direction, as in `retrieval_metrics`, from counts [queries].

    above, least: wrong candidates that score above the best true one, and at least as high. ties:
    as there; a published tie may hold more ranks than can be listed, so they are counted.
    """
    if ties == "against":
        return _summary(direction, 1 + least)
    steps = np.zeros(int(least.max()) + 3, np.int64)
    np.add.at(steps, 1 + above, 1)
    np.add.at(steps, 2 + least, -1)
    how_many = steps.cumsum()  # times that each rank occurs
    ranks = np.arange(len(how_many))
    total, up_to = how_many.sum(), how_many.cumsum()
    recalls = {f"R@{k}": 100 * float(up_to[min(k, len(ranks) - 1)] / total) for k in RECALL_AT}
    middle = np.searchsorted(up_to, [(total - 1) // 2 + 1, total // 2 + 1])
    values = recalls | {
        "MdR": float(middle.mean()),
        "MnR": float((ranks * how_many).sum() / total),
        "R-Sum": sum(recalls[f"R@{k}"] for k in SUMMED),
    }
    return {f"{direction}_{name}": value for name, value in values.items()}


def _percent(hits: np.ndarray) -> float:
    return 100 * float(hits.mean())
