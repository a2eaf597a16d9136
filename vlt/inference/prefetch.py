"""Clips read ahead of their use: a bounded number, in order, even if some files are broken."""

import itertools
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from vlt.data.video.clips import ClipRequest, DecoderPool
from vlt.data.video.errors import VideoError
from vlt.model_io.folder import ModelConfig
from vlt.model_io.view import FRAMES

Clip = np.ndarray | VideoError
R = TypeVar("R")  # a request that the pool's processes answer


def clip_request(config: ModelConfig, path: str) -> ClipRequest:
    """The request for what a model sees of a video file, which is what it is evaluated on."""
    view = config.view
    frames = view.frames or config.frames or config.spec.visual.temporal_frames or FRAMES
    transform, allowed = view.transform(config.preprocessing), view.allow_truncated
    return ClipRequest(path, view.sampler, frames, transform, allow_truncated=allowed)


def read_ahead(
    pool: DecoderPool, requests: Iterable[R], size: int
) -> Generator[tuple[list[R], list[Clip]], None, None]:
    """Yields `size` requests at a time, fewer the last time, with their clips uint8 [t, H, W, 3],
    or whatever else the pool's processes answer.

    A clip that cannot be read, or not within the pool's time limit, is replaced by the error. At
    most two batches are held: one in use, and one being read meanwhile. If the iterator is closed
    early or ends in an exception, the pool is closed, which ends the reads under way.

    Raises:
        RuntimeError: the pool's processes do not start.
    """
    threads = ThreadPoolExecutor(max(1, pool.workers))
    remaining = iter(requests)
    waiting: deque[tuple[list[R], list[Future[Clip]]]] = deque()

    def read(request: R) -> Clip:
        try:
            return pool.read(request)
        except VideoError as error:
            return error

    try:
        while batch := list(itertools.islice(remaining, size)):
            waiting.append((batch, [threads.submit(read, request) for request in batch]))
            if len(waiting) > 1:
                yield _results(*waiting.popleft())
        while waiting:
            yield _results(*waiting.popleft())
    except BaseException:
        pool.close()
        raise
    finally:
        threads.shutdown(cancel_futures=True)


def _results(batch: list[R], futures: list[Future[Clip]]) -> tuple[list[R], list[Clip]]:
    return batch, [future.result() for future in futures]
