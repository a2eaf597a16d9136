"""Twin accuracy: does a model see the order of frames of moving shapes?

Each clip has a twin, its frames in reverse order with a caption of its own. A model whose video
embedding does not depend on frame order scores exactly 50%.
"""

from collections.abc import Sequence

import numpy as np

EVALUATIONS = ("twins", "caption_twins", "answer_twins")  # kinds that keep the choices of pairs
TIE = 1e-5  # scores this close are equal up to rounding: each choice counts one half


def twin_accuracy(scores: np.ndarray, families: Sequence[str]) -> dict[str, float]:
    """How often a video prefers its own caption to its twin's, and a caption its own video.

    Args:
      scores: [pairs, 2, 2]; scores[p, i, j] compares video i of pair p with the caption of
        video j, so the diagonals are right.
      families: the family of motions of each pair, [pairs].

    Returns:
      In percent: `twins_v2t` and `twins_t2v` over all pairs, and both by family as
      `twins_v2t/FAMILY`. Scores at most 1e-5 apart count one half.

    Raises:
      ValueError: NaNs, or shapes that disagree.
    """
    scores = np.asarray(scores, np.float64)
    if scores.shape != (len(families), 2, 2) or not len(families):
        raise ValueError(f"scores {scores.shape} for {len(families)} pairs: need [pairs, 2, 2]")
    if np.isnan(scores).any():
        raise ValueError(f"pair {np.argwhere(np.isnan(scores))[0][0]} has NaN scores")
    own = np.diagonal(scores, axis1=1, axis2=2)
    other_caption = np.stack([scores[:, 0, 1], scores[:, 1, 0]], axis=1)
    choices = {
        "twins_v2t": _wins(own - other_caption),
        "twins_t2v": _wins(own - other_caption[:, ::-1]),
    }
    result = {}
    for name, wins in choices.items():
        result[name] = 100 * float(wins.mean())
        for family, value in mean_by_family(wins.mean(1), families).items():
            result[f"{name}/{family}"] = 100 * value
    return result


def mean_by_family(values: np.ndarray, families: Sequence[str]) -> dict[str, float]:
    """Mean of `values` [pairs] within each family, families in alphabetical order."""
    names = np.asarray(families)
    return {str(name): float(values[names == name].mean()) for name in np.unique(names)}


def _wins(margin: np.ndarray) -> np.ndarray:
    """1 for a right choice, 0 for a wrong one, one half for a tie."""
    return np.where(np.abs(margin) <= TIE, 0.5, margin > 0)
