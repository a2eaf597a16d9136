"""Tells where a run hangs, while it hangs."""

import faulthandler
import threading
import time

from absl import logging

STDERR = 2


class Watchdog:
    """A thread that reports what is slow, and what all threads are doing, if no step ends for too
    long.

    Args:
        limit: seconds; 0 for never.
    """

    def __init__(self, limit: float):
        self._limit = limit
        self._part = ""
        self._part_since = self._since = time.monotonic()
        self._closed = threading.Event()
        if limit:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def part(self, name: str) -> None:
        """Names what is being done from now on, such as 'input'."""
        self._part, self._part_since = name, time.monotonic()

    def step_ended(self) -> None:
        """Notes that a step, or a batch of an evaluation, is done."""
        self._since = time.monotonic()

    def _watch(self) -> None:
        while not self._closed.wait(max(self._since + self._limit - time.monotonic(), 0.01)):
            now = time.monotonic()
            if now - self._since >= self._limit:
                logging.warning(
                    "no step has ended for %.0f s: %s has been going on for %.0f s; "
                    "what every thread is doing:",
                    self._limit, self._part, now - self._part_since,
                )  # fmt: skip
                faulthandler.dump_traceback(STDERR)
                self._since = now

    def close(self) -> None:
        """Ends the thread."""
        self._closed.set()
