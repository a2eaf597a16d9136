"""Ordered lists of path regexes: the first that matches the whole path of a leaf wins."""

import dataclasses
import re
from collections.abc import Iterable, Sequence


def first_match(patterns: Iterable[str], path: str) -> int | None:
    """The index of the first pattern that matches the whole path; None if none does."""
    matches = (i for i, pattern in enumerate(patterns) if re.fullmatch(pattern, path))
    return next(matches, None)


@dataclasses.dataclass(frozen=True)
class Matches:
    """Which of several paths each of several patterns matches.

    Attributes:
        winner: for each path that any pattern matches, the index of the first that does.
        dead: indices of patterns that match no path.
        shadowed: for each pattern whose paths are all taken by earlier ones, those paths.
    """

    winner: dict[str, int]
    dead: list[int]
    shadowed: dict[int, list[str]]


def match_all(patterns: Sequence[str], paths: Iterable[str]) -> Matches:
    """Finds the first match of every path, and the patterns that are no path's first match."""
    paths = list(paths)
    winner: dict[str, int] = {}
    dead: list[int] = []
    shadowed: dict[int, list[str]] = {}
    for index, pattern in enumerate(patterns):
        matched = [path for path in paths if re.fullmatch(pattern, path)]
        won = [path for path in matched if path not in winner]
        if not matched:
            dead.append(index)
        elif not won:
            shadowed[index] = matched
        winner |= dict.fromkeys(won, index)
    return Matches(winner, dead, shadowed)
