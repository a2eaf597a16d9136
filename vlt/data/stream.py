"""Batches read ahead of their use, each with the state of the data stream right after it.

Like grain's ThreadPrefetchIterDataset, whose `next` and `close` would wait for a decode that hangs
for however long it does: here a signal ends both, and `close` then abandons the reading thread.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grain
import numpy as np

from vlt.runtime import stopping

POLL_SECONDS = 0.2

Batch = dict[str, np.ndarray]


class Stream(Iterator[Any]):
    """Iterates over placed batches, which a thread prepares ahead.

    Attributes:
        state: a dict of ints that belongs to the batch last returned, however many are already
            prepared, and is the same in all processes. A stream made with it returns the batch that
            would have come next, whichever share of it this process reads.
        wait_seconds: time spent in `next` so far.
    """

    def __init__(
        self,
        dataset: grain.IterDataset[Batch],
        place: Callable[[Batch], Any],
        state: Mapping[str, Any] | None = None,
        depth: int = 2,
        share: tuple[int, int] = (1, 1),
    ):
        """
        Args:
            place: puts a batch where it is used, such as on the devices.
            state: where to begin; the start if None.
            depth: how many placed batches are kept ready.
            share: how many elements of a batch the dataset has, and how many all processes'
                datasets have together.
        """
        self._iterator = iter(dataset)
        own, every = share
        if state is not None:
            self._iterator.set_state(_scaled(state, every, own))
        self._global_state = lambda: _scaled(self._iterator.get_state(), own, every)
        self.state = self._global_state()
        self.wait_seconds = 0.0
        self._place = place
        self._ready: queue.Queue[tuple[Any, Any, BaseException | None]] = queue.Queue(depth)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="data-stream", daemon=True)
        self._thread.start()

    def _fill(self) -> None:
        try:
            while not self._closed.is_set():
                batch = self._place(next(self._iterator))
                self._offer((batch, self._global_state(), None))
        except BaseException as error:  # raised again where the batch is awaited
            self._offer((None, None, error))

    def _offer(self, item: tuple[Any, Any, BaseException | None]) -> None:
        while not self._closed.is_set():
            try:
                return self._ready.put(item, timeout=0.1)
            except queue.Full:
                pass

    def __next__(self) -> Any:
        """The next batch.

        Raises:
            StopIteration: the pass is over, or the stream was closed.
            VideoError: under the policy `raise`, the first video that could not be read.
            Stopped: a signal has arrived; the state is that of the previous batch.
        """
        if self._closed.is_set():
            raise StopIteration
        stopping.check()
        start = time.perf_counter()
        batch, state, error = self._await(start)
        self.wait_seconds += time.perf_counter() - start
        if error is not None:
            self.close()
            raise error
        self.state = state
        return batch

    def _await(self, start: float) -> tuple[Any, Any, BaseException | None]:
        while True:
            try:
                return self._ready.get(timeout=POLL_SECONDS)
            except queue.Empty:
                stopping.check(waited=time.perf_counter() - start)

    def close(self) -> None:
        """Stops reading ahead. Waits for a decode under way to end, unless a signal has arrived."""
        self._closed.set()
        start = time.perf_counter()
        while self._thread.is_alive() and not stopping.requested():
            self._thread.join(POLL_SECONDS)
            stopping.check(waited=time.perf_counter() - start)
        self._iterator.close()


def _scaled(state: Mapping[str, Any], old: int, new: int) -> dict[str, int]:
    """Converts a position for batches of `old` elements to that for batches of `new` elements."""
    batches, rest = divmod(state["next_index"], old)
    return {"next_index": batches * new + rest}
