"""Windows of an index by what they show: scores, ranges of time, and how unusual a score is."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from vlt.indexing.store import Windows

BLOCK = 1 << 16  # vectors of half precision that are widened at once
NEIGHBOURS = 0.5  # how far towards the best a score must lie to lengthen its range
FEWEST = 30  # windows that tell what is usual


@dataclasses.dataclass(frozen=True)
class Found:
    """A range of time of a video that a query finds.

    start, end: seconds. score: cosine of its best window. chance: how likely the best of as many
    windows that have nothing to do with the query scores as high; None where too few tell.
    """

    path: str
    start: float
    end: float
    score: float
    chance: float | None = None


def scores_of(windows: Windows, query: np.ndarray) -> np.ndarray:
    """Cosines of a unit vector [e] with those of all windows: float32 [n]."""
    query = query.astype(np.float32)
    blocks = range(0, len(windows), BLOCK)
    parts = [windows.vectors[at : at + BLOCK].astype(np.float32) @ query for at in blocks]
    return np.concatenate(parts) if parts else np.empty(0, np.float32)


def best_ranges(
    windows: Windows, scores: np.ndarray, top: int, usual: np.ndarray | None = None
) -> list[Found]:
    """The `top` ranges of the highest scores, highest first.

    A range is the best window that is left, with its neighbours in time: those that touch it and
    score at least halfway from what is usual to the best.

    Args:
        usual: scores of what the query is compared with, all of an index's; `scores` by default.
    """
    usual = scores if usual is None else usual
    middle = float(np.median(usual)) if len(usual) else 0.0
    of_path = _by_path(windows)
    taken = np.zeros(len(scores), bool)
    found: list[Found] = []
    for best in np.argsort(-scores, kind="stable"):
        if len(found) == top:
            break
        if taken[best]:
            continue
        least = middle + NEIGHBOURS * (float(scores[best]) - middle)
        high = (scores >= least) & ~taken
        inside = _around(best, of_path[windows.paths[best]], windows.spans, high)
        taken[inside] = True
        start, end = windows.spans[inside, 0].min(), windows.spans[inside, 1].max()
        score = float(scores[best])
        found.append(
            Found(windows.paths[best], float(start), float(end), score, chance(score, usual))
        )
    return found


def chance(score: float, usual: np.ndarray) -> float | None:
    """How likely the highest of so many usual scores is at least this one; None of too few.

    Usual scores are taken for normal, around their median, with the width of their middle half, so
    that those few that the query does find do not count.
    """
    if len(usual) < FEWEST:
        return None
    low, middle, high = np.percentile(usual, (25, 50, 75))
    width = (high - low) / 1.349
    if width <= 0:
        return None
    beyond = 0.5 * math.erfc((score - middle) / width / math.sqrt(2))
    return -math.expm1(len(usual) * math.log1p(-beyond)) if beyond < 1 else 1.0


def _by_path(windows: Windows) -> dict[str, np.ndarray]:
    """Rows of each video, in order of time."""
    order = np.lexsort((windows.spans[:, 0], windows.paths.astype(str)))
    paths = windows.paths[order]
    edges = np.flatnonzero(paths[1:] != paths[:-1]) + 1
    return {windows.paths[rows[0]]: rows for rows in np.split(order, edges) if len(rows)}


def _around(
    best: int, rows: Sequence[int] | np.ndarray, spans: np.ndarray, high: np.ndarray
) -> list[int]:
    """Rows of windows that touch the best one, or each other, and score high."""
    rows = list(rows)
    at = rows.index(best)
    inside = [best]
    for side in (rows[at + 1 :], rows[:at][::-1]):
        edge = best
        for row in side:
            touches = spans[row, 0] <= spans[edge, 1] and spans[edge, 0] <= spans[row, 1]
            if not (touches and high[row]):
                break
            inside.append(row)
            edge = row
    return inside
