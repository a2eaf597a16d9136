"""SIGTERM and SIGINT (Ctrl-C) as requests: waiting ends, the state is saved, the process ends.

A second signal, of either kind, ends the process at once. A thread looks out for it, since Python
handles no signal while its main thread is inside a library, such as a compiler.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from absl import logging
from jax.experimental import multihost_utils

from vlt.runtime import processes

SIGNALS = (signal.SIGTERM, signal.SIGINT)
ONE_SECONDS = 0.3  # in which signals count as one: some senders send to a process and to its group
HUNG_SECONDS = 20.0  # of waiting for input while other processes wait for this one

_came: signal.Signals | None = None
_deferred = 0


class Stopped(KeyboardInterrupt):
    """A signal came; the message says what is saved."""


@contextlib.contextmanager
def signals() -> Iterator[None]:
    """Makes the first signal raise `Stopped` in the main thread, and a second end the process.

    With several processes, JAX sees SIGTERM, and `stop_requested` says at which step all end;
    SIGINT becomes SIGTERM. Outside the main thread, which alone may set handlers, nothing happens.
    """
    global _came
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handled = SIGNALS if processes.is_single_process() else (signal.SIGINT,)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    threading.Thread(target=_watch, args=(reader,), name="signals", daemon=True).start()
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    previous = {signum: signal.signal(signum, _handle) for signum in handled}
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(wakeup)
        os.close(writer)  # ends the thread
        if signal.getsignal(signal.SIGINT) is not _handle:
            _came = None


def _handle(signum: int, _: Any) -> None:
    global _came
    first, _came = _came is None, signal.Signals(signum)
    if not first:
        return
    if not processes.is_single_process():
        os.kill(os.getpid(), signal.SIGTERM)
    elif not _deferred:
        raise Stopped


def _watch(reader: int) -> None:
    """Prints a notice at the first signal, and ends the process at the second."""
    first = None
    while came := os.read(reader, 1):
        now = time.monotonic()
        if first is None:
            first = now
            _say("stopping; a second signal, such as Ctrl-C, ends at once, and saves nothing")
        elif now - first > ONE_SECONDS:
            _say("ended at once")
            os._exit(128 + came[0])
    os.close(reader)


def _say(text: str) -> None:
    os.write(2, f"{text}\n".encode())


@contextlib.contextmanager
def interrupting() -> Iterator[None]:
    """Within `signals`, a block that Ctrl-C interrupts, however often, and nothing beyond it.

    Raises:
        KeyboardInterrupt: Ctrl-C was typed; never a `Stopped`, which is SIGTERM's.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    wakeup = signal.set_wakeup_fd(-1)  # otherwise a second one ends the process
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Keeps signals from raising in a block that must not end midway, except in `check`."""
    global _deferred
    _deferred += 1
    try:
        yield
    finally:
        _deferred -= 1


def requested() -> bool:
    """Whether a signal has come to this process and it is the only one."""
    return _came is not None and processes.is_single_process()


def status() -> int:
    """The exit status of a process that a signal ended, as shells count it."""
    return 128 + (_came or signal.SIGTERM)


def check(waited: float = 0.0) -> None:
    """Raises if a signal has come. Called while waiting, and between parts of long work.

    Args:
        waited: seconds spent waiting for input so far.

    Raises:
        Stopped: a signal has come.
        DistributedError: one has come to any of several processes, which now wait for this one.
    """
    if requested():
        raise Stopped
    if waited > HUNG_SECONDS and not processes.is_single_process() and processes.told_to_stop():
        raise processes.DistributedError(
            f"told to stop, but this process has waited for input for {waited:.0f} s; nothing new "
            f"is saved; {processes.GO_ON}"
        )


@contextlib.contextmanager
def stop_requested() -> Iterator[Callable[[int], bool]]:
    """Yields a function to be called with each step in turn: whether to stop after it.

    With several processes, JAX sees a SIGTERM to any of them, and tells all to stop at one step.
    """
    with signals(), deferred():
        if processes.is_single_process():
            yield lambda _: requested()
        else:
            yield multihost_utils.reached_preemption_sync_point


def end(status: int) -> NoReturn:
    """Ends the process, whatever is still running in the background."""
    logging.flush()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
