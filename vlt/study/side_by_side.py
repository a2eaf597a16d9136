"""Runs of a study side by side, each in a process of its own on its own cores.

Models this small leave much of two cores idle: two runs at once, on a core each, take 0.6 to 0.75
of the time of two runs in turn (benchmarks/RESULTS.md).
"""

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any, TypeVar

import jax
from absl import logging

from vlt.runtime import stopping
from vlt.runtime.libraries import prepare_libraries

MOST = 16  # each takes more than 1 GB of memory

T = TypeVar("T")
_told_to_stop = False


def shares(most: int) -> list[set[int]]:
    """The cores of each of the runs, at most `most`, that this machine carries at once.

    It is one run where an accelerator computes, which belongs to one process, and where a process
    cannot be kept to some of the cores (not on Linux).
    """
    if jax.default_backend() != "cpu" or not hasattr(os, "sched_setaffinity"):
        return [set()]
    cores = sorted(os.sched_getaffinity(0))
    count = max(1, min(most, MOST, len(cores)))
    return [set(cores[i::count]) for i in range(count)]


def as_they_end(jobs: Sequence[Callable[[], T]], log: Path) -> Generator[T, None, None]:
    """Yields what the jobs return, in the order in which they end.

    What a job raises is raised here, once the others have been told to stop, as by a signal, and
    have ended. A job must be picklable if it is not the only one. log: gets what processes write to
    stderr.

    Raises:
        BrokenProcessPool: a process was killed.
    """
    cores = shares(len(jobs))
    with _executor(cores, log) as executor:
        left = iter(jobs)
        under_way = {executor.submit(_do, job) for job in itertools.islice(left, len(cores))}
        while under_way:
            ended, under_way = futures.wait(under_way, return_when=futures.FIRST_COMPLETED)
            # What has ended well comes before what is raised, and is not lost by it.
            for future in sorted(ended, key=lambda each: each.exception() is not None):
                result = future.result()
                # One at a time, so that none is left to begin after a signal.
                under_way |= {executor.submit(_do, job) for job in itertools.islice(left, 1)}
                yield result


@contextlib.contextmanager
def _executor(cores: Sequence[set[int]], log: Path) -> Iterator[futures.Executor]:
    if len(cores) < 2:
        with futures.ThreadPoolExecutor(1) as thread:
            yield thread
        return
    spawn = multiprocessing.get_context("spawn")
    own = spawn.SimpleQueue()
    for share in cores:
        own.put(share)
    with futures.ProcessPoolExecutor(len(cores), spawn, _start, (own, log)) as processes:
        try:
            yield processes
        except BaseException:
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _start(own: "multiprocessing.SimpleQueue[set[int]]", log: Path) -> None:
    """Prepares a process: for its cores, and to end with its parent."""
    os.sched_setaffinity(0, own.get())
    for signum in stopping.SIGNALS:
        signal.signal(signum, _remember)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with log.open("a") as file:
        os.dup2(file.fileno(), 2)
    prepare_libraries()
    logging.set_stderrthreshold("warning")


def _remember(*_: Any) -> None:
    """Handles a signal between jobs: a process that ended here would leave its queues locked."""
    global _told_to_stop
    _told_to_stop = True


def _do(job: Callable[[], T]) -> T:
    with stopping.signals():
        if _told_to_stop:
            raise stopping.Stopped
        return job()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
