"""Frames of a video that can only be read from its start, over many calls."""

import math
from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np

from vlt.data.video.decode import Video


class Onward:
    """A video whose reading goes on where the last call stopped.

    Attributes:
      video: nothing else may read it between two calls, or `restart` must follow.
      held: frames that are kept for the next call, by their indices.
    """

    def __init__(self, video: Video):
        self.video = video
        self.restart()

    def restart(self) -> None:
        """Makes the next call read from the start."""
        self.held: dict[int, np.ndarray] = {}
        self._asked: deque[int] = deque()
        self._decoded: Iterator[np.ndarray] = iter(())
        self._next: float = math.inf  # the first frame that is not decoded yet

    def frames(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """The frames at `indices` (ascending, no repeats), uint8 RGB [H, W, 3], one at a time.

        Decoding starts over only if a frame before the point where it stopped is not held.

        Raises: what `Video.frames` raises; `restart` must follow.
        """
        held = self.held
        if any(index < self._next for index in indices if index not in held):
            self.restart()
            self._decoded, self._next = self.video.frames(self._in_turn()), 0
        for index in indices:
            if index not in held:
                self._asked.append(index)
                self._next = index + 1
                yield next(self._decoded)
            else:
                yield held[index]

    def _in_turn(self) -> Iterator[int]:
        """What is asked for, each looked up only when decoding comes to it."""
        while self._asked:
            yield self._asked.popleft()
