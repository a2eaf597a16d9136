"""Serves a page, and makes videos for it."""

import contextlib
import pathlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import uvicorn

from vlt.data import moving_shapes


def videos(folder: pathlib.Path, pairs: int) -> pathlib.Path:
    """Makes clips of moving shapes; returns the folder of their videos."""
    return moving_shapes.generate(folder / "clips", pairs).parent / "videos"


@contextlib.contextmanager
def server(app: Any) -> Iterator[int]:
    """Serves the app and yields its port."""
    running = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.05)
        assert thread.is_alive()
    yield running.servers[0].sockets[0].getsockname()[1]
    running.should_exit = True
    thread.join(20)
