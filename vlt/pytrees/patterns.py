"""Ordered lists of path regexes: the first that matches the whole path of a leaf wins."""

import dataclasses
import re
from collections.abc import Iterable, Sequence


def first_match(patterns: Iterable[str], path: str) -> int | None:
    """The index of the first pattern that is the whole path; None where none is."""
    matches = (i for i, pattern in enumerate(patterns) if re.fullmatch(pattern, path))
    return next(matches, None)


@dataclasses.dataclass(frozen=True)
class Matches:
    """What each of several patterns takes of several paths.

    Attributes:
        winner: of each path that any pattern matches, the index of the first that does.
        dead: indices of patterns that match no path.
        shadowed: of each pattern that matches paths, all of which earlier ones take: those paths.
    """

    winner: dict[str, int]
    dead: list[int]
    shadowed: dict[int, list[str]]


def match_all(patterns: Sequence[str], paths: Iterable[str]) -> Matches:
    """The first match of every path, and the patterns that have none to themselves."""
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
