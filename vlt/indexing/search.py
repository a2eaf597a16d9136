"""Windows of an index by what they show: scores, ranges of time, and how unusual a score is."""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from vlt.indexing.rows import Windows

NEIGHBOURS = 0.5  # how far towards the best a score must lie to lengthen its range
SORTED = 20  # windows for each range that is wanted, before all others are sorted, too
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
    return windows.vectors.astype(np.float32, copy=False) @ query.astype(np.float32)


def best_ranges(
    windows: Windows, scores: np.ndarray, top: int, usual: "Usual | None" = None
) -> list[Found]:
    """The `top` ranges of the highest scores, highest first.

    A range is the best window that is left, with its neighbours in time: those that touch it and
    score at least halfway from what is usual to the best.

    Args:
        usual: scores of what the query is compared with, all of an index's; `scores` by default.
    """
    background = usual or Usual.of(scores)
    middle = background.middle
    taken = np.zeros(len(scores), bool)
    found: list[Found] = []
    for best in _best_first(scores, SORTED * top):
        if len(found) == top:
            break
        if taken[best]:
            continue
        rows = windows.rows_of[windows.paths[best]]
        least = middle + NEIGHBOURS * (float(scores[best]) - middle)
        high = (scores[rows] >= least) & ~taken[rows]
        inside = rows[_around(int(np.flatnonzero(rows == best)[0]), windows.spans[rows], high)]
        taken[inside] = True
        start, end = windows.spans[inside, 0].min(), windows.spans[inside, 1].max()
        score = float(scores[best])
        found.append(
            Found(windows.paths[best], float(start), float(end), score, background.chance(score))
        )
    return found


def _best_first(scores: np.ndarray, some: int) -> Iterator[int]:
    """Rows by score, the first of equal ones first; the others are sorted when they are reached."""
    least = -np.inf if some >= len(scores) else np.partition(scores, -some)[-some]
    for those in (np.greater_equal, np.less):
        rows = np.flatnonzero(those(scores, least))
        yield from rows[np.argsort(-scores[rows], kind="stable")].tolist()


@dataclasses.dataclass(frozen=True)
class Usual:
    """Scores of an index's windows, taken for normal around their median, with the width of their
    middle half, so that those few that the query does find do not count.

    count: of them. middle, width: their median, and their standard deviation.
    """

    count: int
    middle: float
    width: float

    @classmethod
    def of(cls, scores: np.ndarray, count: int | None = None) -> "Usual":
        """Those of a query; of a sample, `count` is how many there are."""
        low, middle, high = np.percentile(scores, (25, 50, 75)) if len(scores) else (0.0, 0.0, 0.0)
        count = len(scores) if count is None else count
        return cls(count, float(middle), float(high - low) / 1.349)

    def chance(self, score: float) -> float | None:
        """How likely the highest of so many is at least this score; None of too few, or equal
        ones."""
        if self.count < FEWEST or self.width <= 0:
            return None
        beyond = 0.5 * math.erfc((score - self.middle) / self.width / math.sqrt(2))
        return -math.expm1(self.count * math.log1p(-beyond)) if beyond < 1 else 1.0


def _around(best: int, spans: np.ndarray, high: np.ndarray) -> list[int]:
    """Which windows of a video, in order of time, touch the best one, or each other, and score
    high."""
    inside = [best]
    for side in (range(best + 1, len(spans)), range(best - 1, -1, -1)):
        edge = best
        for row in side:
            touches = spans[row, 0] <= spans[edge, 1] and spans[edge, 0] <= spans[row, 1]
            if not (touches and high[row]):
                break
            inside.append(row)
            edge = row
    return inside
