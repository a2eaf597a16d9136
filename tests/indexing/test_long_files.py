"""Embedding a ten-hour file takes no more memory than embedding a one-hour file."""

import json
import subprocess
import sys

import av
import numpy as np
import pytest
from helpers import environment

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
