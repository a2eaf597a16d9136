"""A pool without decoders: a video's frames identify the request that they answer."""

import threading
import time

import numpy as np

from vlt.data.video.errors import DecodeTimeout, Truncated

SHAPE = (2, 4, 4, 3)
ROWS = 24  # in the manifest of the `make` fixture


class StubPool:
    """Fills frames with the number in the file's name; raises for `broken` videos.

    Args:
        broken: numbers of the videos that can never be read.
        hangs: numbers of the videos that time out on their first read only.
    """

    workers = 2

    def __init__(self, broken=(), hangs=()):
        self.broken, self.hangs = set(broken), set(hangs)
        self.requests = []
        self._lock = threading.Lock()

    def read(self, request):
        number = int(request.path.rsplit("/", 1)[-1].removesuffix(".mp4"))
        with self._lock:
            self.requests.append(request)
            hang = number in self.hangs
            self.hangs.discard(number)
        time.sleep(0.001 * (request.seed % 3))  # answers arrive in any order
        if hang:
            raise DecodeTimeout(request.path, "no frames after 1 s")
        if number in self.broken:
            raise Truncated(request.path, "ends early")
        return np.full(SHAPE, number, np.uint8)


def take(stream, count):
    """Returns the next `count` batches of a stream and closes it."""
    batches = [next(stream) for _ in range(count)]
    stream.close()
    return batches
