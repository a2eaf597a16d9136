"""A pool without decoders: a video's frames tell which request they answer."""

import threading
import time

import numpy as np

from vlt.data.errors import DecodeTimeout, Truncated

SHAPE = (2, 4, 4, 3)
ROWS = 24  # of the `make` fixture's manifest


class StubPool:
    """Frames are filled with the number in the file's name; `broken` ones raise.

    Args:
        broken: numbers of videos that never can be read.
        hangs: numbers of videos that time out at their first read only.
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
        time.sleep(0.001 * (request.seed % 3))  # answers come in any order
        if hang:
            raise DecodeTimeout(request.path, "no frames after 1 s")
        if number in self.broken:
            raise Truncated(request.path, "ends early")
        return np.full(SHAPE, number, np.uint8)


def take(stream, count):
    """The next `count` batches of a stream, which is closed."""
    batches = [next(stream) for _ in range(count)]
    stream.close()
    return batches
