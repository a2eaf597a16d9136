"""Work for many requests, a few at a time, with a waiting line of bounded length."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import Request

LOOK_EVERY = 0.3  # seconds between checks whether the client still waits for the answer

T = TypeVar("T")


class WorkQueue:
    """Runs functions in threads: `workers` at once, `waiting` more in line, no more than that."""

    def __init__(self, workers: int, waiting: int):
        self._threads = ThreadPoolExecutor(workers)
        self._free = asyncio.Semaphore(workers)
        self._most, self._held = workers + waiting, 0

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Holds a place in line, in which a request's body may be read, and functions run.

        Raises:
            HTTPException: 503 if the line is full.
        """
        if self._held >= self._most:
            told = {"Retry-After": "2"}
            raise HTTPException(503, "too many requests at once; try again in a moment", told)
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1

    async def run(
        self, request: Request, function: Callable[[], T], stop: threading.Event | None = None
    ) -> T:
        """Returns the function's result, for a request that holds a `place`.

        stop: set if the client leaves while the function runs.

        Raises:
            HTTPException: 499 if the client has left in the meantime, in which case the function is
                not called.
        """
        async with self._free:
            if await request.is_disconnected():
                raise HTTPException(499, "the request was given up")
            work = asyncio.get_running_loop().run_in_executor(self._threads, function)
            while stop and not (await asyncio.wait({work}, timeout=LOOK_EVERY))[0]:
                if await request.is_disconnected():
                    stop.set()
            return await work

    def close(self) -> None:
        """Waits for what is running, and cancels what is waiting."""
        self._threads.shutdown(cancel_futures=True)
