"""Reads the rows of a data stream, and decides what becomes of those that cannot be read.

Threads fetch ahead, in any order; then one thread decides, in the order of the stream, what enters
a batch. So two runs with the same seed decide alike, however their decoders race.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from vlt.data.skips import SkipLog
from vlt.data.video.errors import VideoError

POLICIES = ("raise", "skip", "replace")
MOST_REPLACEMENTS = 100
CLIP, CAPTION, REPLACEMENT = 1, 2, 3  # what a random number is for
PADDING = -1

Read = Callable[[int, int], np.ndarray]  # (record, seed) -> uint8 [t, H, W, 3]


@dataclasses.dataclass(frozen=True)
class Example:
    """A record on its way into a batch.

    Attributes:
        record: index of the record; PADDING fills up a batch.
        frames: uint8 [t, H, W, 3], or None where there are none.
        draw: random, in [0, 1), the same for all of a unit; chooses among several captions.
    """

    record: int
    frames: np.ndarray | None = None
    draw: float = 0.0


@dataclasses.dataclass(frozen=True)
class Failure:
    """The first record of a unit that could not be read."""

    record: int
    error: VideoError


@dataclasses.dataclass(frozen=True)
class Fetched:
    """What reading the unit at a position gave, and reading those that may replace it."""

    position: int
    unit: int
    tries: dict[int, list[Example] | Failure]


class Reader:
    """Reads units: records that belong in the same batch."""

    def __init__(
        self,
        read: Read,
        units: Sequence[Sequence[int]],
        skips: SkipLog,
        *,
        policy: str,
        seed: int,
        keep_failed: bool = False,
        start: int = 0,
    ):
        """
        Args:
            policy: what to do about a unit that cannot be read: 'raise' its error, 'skip' it, or
                'replace' it with another one, chosen by the position.
            keep_failed: whether a skipped unit stays, as examples without frames.
            start: position at which the pass begins, counted over all passes, for the log of skips.
        """
        self._read_clip, self._units, self._skips = read, units, skips
        self._policy, self._seed = policy, seed
        self._keep_failed, self._start = keep_failed, start

    def fetch(self, position: int, unit: int) -> Fetched:
        """Reads the unit and, as long as that fails, those that the policy puts in its place."""
        tries: dict[int, list[Example] | Failure] = {}
        if unit != PADDING:
            for candidate in self._candidates(position, unit):
                if not self._is_bad(candidate, position):
                    tries[candidate] = self._read(candidate, position)
                    if not isinstance(tries[candidate], Failure):
                        break
        return Fetched(position, unit, tries)

    def resolve_in_order(self, fetched: Fetched) -> list[Example] | None:
        """What the position contributes to a batch: examples, or None for nothing.

        Raises:
            VideoError: the unit could not be read and the policy is 'raise'.
            TooManyErrors: too many units could not be read.
        """
        if fetched.unit == PADDING:
            return [Example(PADDING)]
        for candidate in self._candidates(fetched.position, fetched.unit):
            self._skips.see(self._units[candidate])
            if self._is_bad(candidate, fetched.position):
                continue
            result = fetched.tries.get(candidate) or self._read(candidate, fetched.position)
            if not isinstance(result, Failure):
                return result
            if self._policy == "raise":
                result.error.add_note("(on_error='skip' or 'replace' would go on without it)")
                raise result.error
            self._skips.add(result.record, self._start + fetched.position, result.error)
        if self._policy == "replace":
            raise RuntimeError(f"none of {MOST_REPLACEMENTS} replacements could be read")
        return [Example(r) for r in self._units[fetched.unit]] if self._keep_failed else None

    def _candidates(self, position: int, unit: int) -> Iterator[int]:
        yield unit
        if self._policy == "replace":
            for attempt in range(MOST_REPLACEMENTS):
                rng = np.random.default_rng([self._seed, position, attempt, REPLACEMENT])
                yield int(rng.integers(len(self._units)))

    def _is_bad(self, unit: int, position: int) -> bool:
        return any(self._skips.is_bad(r, self._start + position) for r in self._units[unit])

    def _read(self, unit: int, position: int) -> list[Example] | Failure:
        draw = np.random.default_rng([self._seed, position, 0, CAPTION]).random()
        examples = []
        for member, record in enumerate(self._units[unit]):
            words = np.random.SeedSequence([self._seed, position, member, CLIP]).generate_state(1)
            try:
                frames = self._read_clip(record, int(words[0]))
            except VideoError as error:
                return Failure(record, error)
            examples.append(Example(record, frames, draw))
        return examples
