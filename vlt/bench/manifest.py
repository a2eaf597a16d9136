"""`python -m vlt.bench.manifest`: the start of a run on a packed manifest of very many rows.

Writes one of `--rows` rows to a temporary folder. Then measures, in two new processes, the seconds
from the start to the first batch, including all imports, and the peak memory. The second process
resumes from the first one's state; `same` says whether it reads what the first read after it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlt.bench.door import count, show, tell
from vlt.bench.timing import peak_gb
from vlt.data.manifests.packed import OPTIONS, SUFFIX, packed_row
from vlt.data.pipeline import VideoData

BATCH = 64
SECTION = {
    "batch_size": BATCH, "sampler": {"name": "linspace", "frames": 1}, "transform": {},
    "captions": ("caption",), "clean": "", "max_words": 0, "prefix": "", "group": "",
    "cache": False, "on_error": "skip", "max_error_rate": 0.5, "allow_truncated": False,
    "backend": "pyav",
}  # fmt: skip
STEPS = 3


class _Frames:
    """A pool that reads no file."""

    workers = 1

    def read(self, request: Any) -> np.ndarray:
        return np.zeros((1, 2, 2, 3), np.uint8)


class _Words:
    """A tokenizer that leaves texts as they are."""

    def entries(self, texts: Mapping[str, Sequence[str]], rows: Any) -> dict[str, np.ndarray]:
        return {name: np.array(found, object) for name, found in texts.items()}


def make(file: Path, rows: int) -> None:
    """Writes a packed manifest of `rows` rows."""
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(file), OPTIONS)
    for i in range(rows):
        writer.write(packed_row({"video": f"{i}.mp4", "caption": f"what video number {i} shows"}))
    writer.close()


def read(file: str, folder: str, state: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a process reads first: ids of each batch, and the state and time after the first."""
    section, words = SECTION | {"manifest": file}, _Words()
    data = VideoData(section, words, _Frames(), name="x", workdir=folder)  # type: ignore[arg-type]
    stream = data.train(state=state)
    found, states, seconds = [], [], 0.0
    for _ in range(STEPS):
        found.append(next(stream)["ids"].tolist())
        states.append(stream.state)
        seconds = seconds or time.time()
    stream.close()
    return {"ids": found, "state": states[0], "at": seconds, "peak_gb": peak_gb()}


def bench(rows: int, folder: str) -> dict[str, Any]:
    """Figures for a manifest of `rows` rows."""
    file = Path(folder) / f"rows{SUFFIX}"
    make(file, rows)
    first, again = (_process(str(file), folder, state) for state in (None, "state"))
    return {
        "rows": rows,
        "start_s": first["spent"],
        "resume_s": again["spent"],
        "peak_gb": max(first["peak_gb"], again["peak_gb"]),
        "same": first["ids"][1:] == again["ids"][:-1],
    }


def _process(file: str, folder: str, state: str | None) -> dict[str, Any]:
    kept = Path(folder) / "state"
    command = [sys.executable, "-m", "vlt.bench.manifest", f"--read={file}", f"--folder={folder}"]
    started = time.time()
    told = subprocess.run(
        [*command, *([f"--state={kept}"] if state else [])],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    found: dict[str, Any] = json.loads(told)
    kept.write_text(json.dumps(found["state"]))
    return found | {"spent": found["at"] - started}


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(prog="python -m vlt.bench.manifest", description=__doc__)
    parser.add_argument("--rows", type=count, default=10_000_000)
    parser.add_argument("--folder", help="where the manifest is made for a while")
    parser.add_argument("--read", help=argparse.SUPPRESS)
    parser.add_argument("--state", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.read:
        state = json.loads(options.state.read_text()) if options.state else None
        print(json.dumps(read(options.read, options.folder, state)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        show(bench(options.rows, folder), as_json=False)


if __name__ == "__main__":
    tell(main)
