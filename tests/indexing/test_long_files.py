"""Embedding a ten-hour file takes no more memory than embedding a one-hour file."""

import json
import subprocess
import sys
import weakref

import av
import numpy as np
import pytest
from helpers import environment

from vlt.data.video.clips import ClipRequest
from vlt.indexing import embedding
from vlt.indexing.rows import FileEntry, Windows
from vlt.indexing.windows import WindowRule

pytest.importorskip("lancedb")

MEASURED = """
import resource, sys
from vlt import embed
assert embed.main(sys.argv[1:]) == 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def write(path, hours):
    """Writes a video of one frame per second, each showing its minute."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=1, options={"preset": "ultrafast", "g": "60"})
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for second in range(hours * 3600):
            picture = np.full((32, 32, 3), (second // 60) % 200, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        file.mux(stream.encode())


def test_clips_are_let_go_once_they_are_embedded(monkeypatch):
    alive, most, entry = weakref.WeakSet(), 0, FileEntry("long.mp4", 1, 1, windows=300)

    class Clip(np.ndarray):
        __hash__ = object.__hash__

    def windows(*_):
        nonlocal most
        for start in range(300):
            clip = np.full((2, 4, 4, 3), start % 256, np.uint8).view(Clip)
            alive.add(clip)
            most = max(most, len(alive))
            yield embedding.Window(entry, (start, start + 1), clip)

    monkeypatch.setattr(embedding, "read_windows", windows)
    look, rule = ClipRequest("", "linspace", 2), WindowRule("time", 1.0, 1.0)
    encode = lambda frames: frames.mean((1, 2, 3))  # noqa: E731
    told = []
    parts = embedding._embedded([entry], encode, look, rule, 8, lambda *x: told.append(x), {})
    found = Windows.joined([part.windows for part in parts])
    assert told == [(entry, (at - 1, at)) for at in [*range(8, 300, 8), 300]]
    np.testing.assert_array_equal(found.vectors[:, 0], np.arange(300) % 256)
    assert 0 < most <= 3 * 8


@pytest.mark.slow
def test_ten_hours_take_no_more_memory_than_one(tmp_path):
    peaks = {}
    for hours in (1, 10):
        write(tmp_path / f"{hours}.mp4", hours)
        arguments = [str(tmp_path / f"{hours}.mp4"), "--model=tiny_clip", "--window=60s"]
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, *arguments, "--stride=60s", "--json",
             f"--out={tmp_path}/{hours}"],
            env=environment(1), check=True, capture_output=True, text=True,
        )  # fmt: skip
        told, *peaks[hours] = done.stdout.splitlines()
        assert json.loads(told)["windows"] == 60 * hours
        assert json.loads(told)["duration"] == pytest.approx(3600 * hours, abs=2)
    for one, ten in zip(peaks[1], peaks[10], strict=True):
        assert int(ten) - int(one) < 100 << 10  # KB
