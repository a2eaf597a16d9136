"""`python -m vlt.bench.embedding VIDEO...`: windows a second that `vlt embed` puts into an index.

Compared with what reading and the tower allow together on the same cores, 1 / (1 / reading +
1 / tower). Each is measured alone, in turn: the windows of all videos are read by as many
processes, and as many batches of them are embedded. Videos are repeated under other names until
there are `--videos`.
"""

import argparse
import contextlib
import itertools
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vlt.api import load
from vlt.bench.door import count, show, tell
from vlt.bench.timing import seconds
from vlt.data.video.clips import DecoderPool, decoders
from vlt.data.video.errors import VideoError
from vlt.data.video.spans import SPAN_WORKER
from vlt.indexing.embedding import BATCH, TIMEOUT
from vlt.indexing.reading import read_windows
from vlt.indexing.rows import FileEntry
from vlt.indexing.windows import WindowRule
from vlt.indices import embed, encoder
from vlt.inference.prefetch import clip_request


def bench(model: Any, paths: Sequence[str], window: str, rounds: int) -> dict[str, float]:
    """Windows/s of each part, and the share of their combined rate that embedding reaches."""
    encode, look = encoder(model), clip_request(model.config, "")
    rule = WindowRule.parse(window)
    clips, size = read(paths, look, rule), BATCH * jax.local_device_count()
    batch = np.stack(list(itertools.islice(itertools.cycle(clips), size)))
    made(model, paths[:1], window)  # loads libraries and compiles the tower

    def tower() -> None:
        for _ in range(math.ceil(len(clips) / size)):
            encode(batch)

    parts = (lambda: read(paths, look, rule), tower, lambda: made(model, paths, window))
    turns = [[seconds(part) for part in parts] for _ in range(rounds)]
    reading, towers, whole = np.median(turns, axis=0).tolist()
    shares = [(one + other) / every for one, other, every in turns]
    return {
        "windows": len(clips),
        "reading": len(clips) / reading,
        "tower": len(clips) / towers,
        "together": len(clips) / (reading + towers),
        "embedding": len(clips) / whole,
        "share": float(np.median(shares)),
    }


def read(paths: Sequence[str], look: Any, rule: WindowRule) -> list[np.ndarray]:
    """Clips of all windows, uint8 [t, h, w, 3], as embedding reads them.

    Raises:
        VideoError: a video cannot be read.
    """
    entries, found = [FileEntry(path, 0, 0) for path in paths], []
    with (
        DecoderPool(decoders(), TIMEOUT, SPAN_WORKER) as pool,
        contextlib.closing(read_windows(pool, entries, look, rule)) as windows,
    ):
        for window in windows:
            if isinstance(window.clip, VideoError):
                raise window.clip
            found.append(window.clip)
    return found


def made(model: Any, paths: Sequence[str], window: str) -> None:
    """Embeds the videos into a new index, without the graph that a large one has."""
    with tempfile.TemporaryDirectory() as folder:
        for _ in embed(f"{folder}/index", paths, model, window, way="exact"):
            pass


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the rates for the videos given on the command line."""
    parser = argparse.ArgumentParser(prog="python -m vlt.bench.embedding", description=__doc__)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--model", required=True, help="a folder, as `vlt embed` takes it")
    parser.add_argument("--window", default="4s", help="as `vlt embed` takes it")
    parser.add_argument("--videos", type=count, default=100)
    parser.add_argument("--rounds", type=count, default=3)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for i, file in zip(range(options.videos), itertools.cycle(options.files), strict=False):
            paths.append(f"{folder}/{i}{Path(file).suffix}")
            os.symlink(Path(file).resolve(), paths[-1])
        rates = bench(load(options.model), paths, options.window, options.rounds)
    show(rates, as_json=False)


if __name__ == "__main__":
    tell(main)
