"""Runs code, or the training command, in several processes that join."""

import pathlib
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence

from helpers import ROOT, environment

from launch.local import ADDRESS, free_port

CONFIG = "tests/loop_config.py"
LOST_SECONDS = 10
JOIN = """
import sys
from vlt.runtime import processes
processes.WATCH_EVERY, processes.COMMON_ERROR = 0.5, 3.0
processes.join(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), 60, 10)
"""


def together(code: str, count: int, devices: int = 1, timeout: float = 200) -> list[str]:
    """Runs indented source in `count` joined processes; returns what each printed."""
    address = f"{ADDRESS}:{free_port()}"
    source = JOIN + textwrap.dedent(code) + "\nprocesses.leave()\n"
    words = [
        (sys.executable, "-c", source, address, str(count), str(index)) for index in range(count)
    ]
    children = [_start(command, devices) for command in words]
    outputs = [child.communicate(timeout=timeout) for child in children]
    for child, (_, errors) in zip(children, outputs, strict=True):
        assert child.returncode == 0, errors[-4000:]
    return [re.sub(r"\[Gloo\].*\n", "", found) for found, _ in outputs]


def start_run(workdir: pathlib.Path, count: int, *overrides: str) -> list[subprocess.Popen]:
    """Starts vlt.main in `count` processes, on batches of eight."""
    address = f"{ADDRESS}:{free_port()}"
    shared = (
        *(sys.executable, "-m", "vlt.main", f"--config={CONFIG}", f"--workdir={workdir}"),
        "--config.data.train.batch_size=8",
        *overrides,
    )
    if count == 1:
        return [_start(shared, 1)]
    shared += (f"--coordinator={address}", f"--process_count={count}", "--join_seconds=100")
    shared += (f"--lost_seconds={LOST_SECONDS}",)
    return [_start((*shared, f"--process_index={index}"), 1) for index in range(count)]


def finish(children: Sequence[subprocess.Popen], timeout: float = 300) -> list[tuple[str, str]]:
    """Waits for processes, which must succeed; returns each one's stdout and stderr."""
    found = [child.communicate(timeout=timeout) for child in children]
    for child, (_, errors) in zip(children, found, strict=True):
        assert child.returncode == 0, errors[-4000:]
    return found


def wait_until(condition: Callable[[], object], children: Sequence[subprocess.Popen]) -> None:
    """Waits until the condition holds; fails if a process ends before."""
    deadline = time.monotonic() + 200
    while not condition():
        for child in children:
            assert child.poll() is None, child.communicate()[1][-4000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _start(words: Sequence[str], devices: int) -> subprocess.Popen:
    return subprocess.Popen(
        words,
        cwd=ROOT,
        env=environment(devices),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
