"""SIGTERM as a request: the step under way ends, the state is saved, the process exits with 0."""

import contextlib
import signal
import threading
from collections.abc import Iterator


class Stopped(Exception):
    """SIGTERM came; the state is saved."""


@contextlib.contextmanager
def stop_requested() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, while the block runs."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event  # only the main thread may set handlers
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, previous)
