"""SIGTERM as a request: the step under way ends, the state is saved, the process exits with 0."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from jax.experimental import multihost_utils

from vlt.distributed import is_alone


class Stopped(Exception):
    """SIGTERM came; the state is saved."""


@contextlib.contextmanager
def stop_requested() -> Iterator[Callable[[int], bool]]:
    """A function of each step in turn, while the block runs: whether to stop after it.

    Of several processes, JAX sees SIGTERM come to any, and says yes to all at the same step.
    """
    if not is_alone():
        yield multihost_utils.reached_preemption_sync_point
        return
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield lambda _: event.is_set()  # only the main thread may set handlers
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield lambda _: event.is_set()
    finally:
        signal.signal(signal.SIGTERM, previous)
