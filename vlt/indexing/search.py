"""Windows of an index by what they show: scores, ranges of time, and how unusual a score is."""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from vlt.indexing.rows import Windows

NEIGHBOURS = 0.5  # how far from usual to best a score must lie to extend the best's range
SORTED = 20  # windows sorted first for each wanted range; the others only if needed
FEWEST = 30  # windows needed to tell what is usual


@dataclasses.dataclass(frozen=True)
class Found:
    """A time range of a video that a query finds.

    path: as in the index (see `Store.located`). start, end: seconds. score: cosine of its best
    window. chance: how likely it is that the best of as many windows unrelated to the query scores
    as high; None if there are too few to tell.
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
    """The `top` ranges with the highest scores, highest first.

    A range is the best window left, with its neighbours in time: those that touch it and score at
    least halfway from the usual score to the best.

    Args:
        usual: the usual scores of all windows of an index; those of `scores` by default.
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
    """Yields rows, highest score first and equal ones in order; sorts those after `some` lazily."""
    least = -np.inf if some >= len(scores) else np.partition(scores, -some)[-some]
    for those in (np.greater_equal, np.less):
        rows = np.flatnonzero(those(scores, least))
        yield from rows[np.argsort(-scores[rows], kind="stable")].tolist()


@dataclasses.dataclass(frozen=True)
class Usual:
    """Scores of an index's windows, taken as normal around their median, with the width of their
    middle half, so that the few windows that do match the query do not count.

    count: number of scores. middle, width: their median and their standard deviation.
    """

    count: int
    middle: float
    width: float

    @classmethod
    def of(cls, scores: np.ndarray, count: int | None = None) -> "Usual":
        """The usual scores of a query; for a sample, `count` is how many there are in all."""
        low, middle, high = np.percentile(scores, (25, 50, 75)) if len(scores) else (0.0, 0.0, 0.0)
        count = len(scores) if count is None else count
        return cls(count, float(middle), float(high - low) / 1.349)

    def chance(self, score: float) -> float | None:
        """How likely the highest of `count` scores is at least this one; None if there are too few
        of them, or their width is 0."""
        if self.count < FEWEST or self.width <= 0:
            return None
        beyond = 0.5 * math.erfc((score - self.middle) / self.width / math.sqrt(2))
        return -math.expm1(self.count * math.log1p(-beyond)) if beyond < 1 else 1.0


def _around(best: int, spans: np.ndarray, high: np.ndarray) -> list[int]:
    """The best window of a video, with those before and after it that score high and touch it, in
    a chain. spans: in order of time."""
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
