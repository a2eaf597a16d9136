"""Batches read ahead of their use, each with the state of the data stream right after it."""

import faulthandler
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grain
import numpy as np
from absl import logging

Batch = dict[str, np.ndarray]
STDERR = 2
PATIENCE = 120.0  # seconds without a batch before the log tells what all threads are doing


class Stream(Iterator[Any]):
    """Iterates over placed batches, which a thread prepares ahead.

    Attributes:
        state: a dict of ints that belongs to the batch last returned, however many are already
            prepared. A stream made with it returns the batch that would have come next.
        wait_seconds: time spent in `next` so far.
    """

    def __init__(
        self,
        dataset: grain.IterDataset[Batch],
        place: Callable[[Batch], Any],
        state: Mapping[str, Any] | None = None,
        depth: int = 2,
    ):
        """
        Args:
            place: puts a batch where it is used, such as on the devices.
            state: where to begin; the start if None.
            depth: how many placed batches are kept ready.
        """
        self._iterator = iter(dataset)
        if state is not None:
            self._iterator.set_state(dict(state))
        self.state = self._iterator.get_state()
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
                self._offer((batch, self._iterator.get_state(), None))
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
        """
        if self._closed.is_set():
            raise StopIteration
        start = time.perf_counter()
        batch, state, error = self._take()
        self.wait_seconds += time.perf_counter() - start
        if error is not None:
            self.close()
            raise error
        self.state = state
        return batch

    def _take(self) -> tuple[Any, Any, BaseException | None]:
        while True:
            try:
                return self._ready.get(timeout=PATIENCE)
            except queue.Empty:
                logging.warning("no batch for %.0f s; what every thread is doing:", PATIENCE)
                faulthandler.dump_traceback(STDERR)

    def close(self) -> None:
        """Stops reading ahead. A decode that is under way ends first."""
        self._closed.set()
        self._thread.join()
        self._iterator.close()
