"""`python -m vlt.bench.failures --workdir=DIR [--kills=20]`: what becomes of a harmed main job.

The job is `configs/btadapter.py`, shortened. One run is left alone; each of the others is harmed,
resumed with the same command, and must end with the same parameters and metrics, bit for bit:

- killed (SIGKILL) at a random moment, every second run while it saves a checkpoint;
- its last checkpoint cut, or changed in one bit: refused until the user passes --restore;
- its disk full in the middle of a save (where a file system can be mounted, which requires root).

Exits with status 1 if any of them does not.
"""

import argparse
import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vlt.bench.door import count, tell
from vlt.pytrees.paths import by_path
from vlt.reporting.tables import Column, format_table
from vlt.storage.trees import UNFINISHED
from vlt.training.checkpoints import TrainingCheckpoints
from vlt.training.metrics_log import PERFORMANCE, read_metrics

STEPS = 24
JOB = (
    "--config=configs/btadapter.py",
    "--config.compare=()",
    "--config.data.train.batch_size=8",
    f"--config.train.steps={STEPS}",
    "--config.train.checkpoint_every=2",
    "--config.train.log_every=1",
    "--config.evals.twins.manifest=moving_shapes:clips:test:40",
    "--config.evals.twins.min_pairs=1",
    "--config.evals.static.manifest=moving_shapes:clips:test:40:gallery.jsonl",
    "--config.evals.static.allow_subset=True",
)
DISK_MB = 64
POLL = 0.001  # seconds

Row = dict[str, Any]


class HarmError(RuntimeError):
    """A run did not do what it must."""


class Job:
    """Runs of the job in folders of their own.

    Args:
        folder: holds the folders of all runs; the run in `whole` is left alone.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.whole = folder / "whole"

    def start(self, workdir: Path, *flags: str) -> subprocess.Popen:
        """Starts the job, or resumes it."""
        command = [sys.executable, "-m", "vlt.main", *JOB, f"--workdir={workdir}", *flags]
        return subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def finish(self, workdir: Path, *flags: str) -> None:
        """Runs the job to its end. Raises HarmError if it fails."""
        process = self.start(workdir, *flags)
        _, errors = process.communicate()
        if process.returncode:
            raise HarmError(f"status {process.returncode}: {_last_line(errors)}")

    def refused(self, workdir: Path) -> str:
        """The reason the job gives for not resuming. Raises HarmError if it resumes."""
        process = self.start(workdir)
        _, errors = process.communicate()
        if process.returncode == 0:
            raise HarmError("it went on from a damaged checkpoint")
        return _last_line(errors)

    def copy_of_whole(self, name: str) -> Path:
        """A copy of the run that was left alone, without the file that says it has ended."""
        workdir = self.folder / name
        shutil.copytree(self.whole, workdir, symlinks=True)
        (workdir / "run.json").unlink()
        return workdir

    def check_same(self, workdir: Path) -> None:
        """Raises HarmError if a finished run differs from the one that was left alone."""
        wanted, found = final_state(self.whole), final_state(workdir)
        differing = wanted.keys() ^ found.keys()
        differing |= {p for p in wanted.keys() & found.keys() if (wanted[p] != found[p]).any()}
        if differing:
            raise HarmError(f"other parameters: {', '.join(sorted(differing)[:3])}")
        if logged(workdir) != logged(self.whole):
            raise HarmError("other metrics")


def final_state(workdir: Path) -> dict[str, np.ndarray]:
    """Trained leaves and optimizer state at the end, by path."""
    checkpoints = TrainingCheckpoints(workdir, keep_last=1)
    parts = {name: checkpoints.load_part(STEPS, name) for name in ("trained", "opt_state")}
    return by_path(parts)


def logged(workdir: Path) -> list[Mapping[str, Any]]:
    """Logged metrics, except those that depend on the machine's speed."""
    return [
        {name: value for name, value in entry.items() if not name.startswith(PERFORMANCE)}
        for entry in read_metrics(workdir)
    ]


def killed(job: Job, number: int, random: np.random.Generator) -> Row:
    """A run that is killed once, at a random step; while it saves, if `number` is odd."""
    workdir = job.folder / f"killed-{number}"
    step = int(random.integers(1, STEPS - 1))
    process = job.start(workdir)
    try:
        if number % 2:
            _wait(process, lambda: _saving(workdir, after=step))
        else:
            _wait(process, lambda: len(read_metrics(workdir)) >= step)
            time.sleep(random.uniform(0, 0.3))
    finally:
        process.kill()
        process.communicate()
    reached, half = len(read_metrics(workdir)), len(_half_written(workdir))
    kept = TrainingCheckpoints(workdir, keep_last=1).latest_complete() or 0
    job.finish(workdir)
    job.check_same(workdir)
    moment = f"step {reached}" + (", saving" if half else "")
    return {"harm": f"kill {number}", "what": f"{moment}; went on from step {kept}"}


def _wait(process: subprocess.Popen, condition: Callable[[], Any]) -> None:
    while not condition():
        if process.poll() is not None:
            raise HarmError(f"it ended too early: {_last_line(process.communicate()[1])}")
        time.sleep(POLL)


def _half_written(workdir: Path) -> list[int]:
    """Steps of checkpoints that are being written."""
    found = (workdir / "checkpoints").glob(f"*{UNFINISHED}*")
    return [int(folder.name.partition(".")[0]) for folder in found]


def _saving(workdir: Path, after: int) -> bool:
    return any(step >= after for step in _half_written(workdir))


def cut(file: Path, random: np.random.Generator) -> str:
    """Truncates a file at a random place."""
    size = int(random.integers(file.stat().st_size))
    with file.open("r+b") as opened:
        opened.truncate(size)
    return f"{file.name} cut to {size:,} bytes"


def flip(file: Path, random: np.random.Generator) -> str:
    """Changes one random bit."""
    content = bytearray(file.read_bytes())
    place, bit = int(random.integers(len(content))), int(random.integers(8))
    content[place] ^= 1 << bit
    file.write_bytes(content)
    return f"{file.name}: bit {bit} of byte {place:,}"


def damaged(job: Job, harm: Callable[..., str], random: np.random.Generator) -> Row:
    """A run that names its last checkpoint, whose largest file is harmed, and resumes when told."""
    workdir = job.copy_of_whole(harm.__name__)
    folder = workdir / "checkpoints" / str(STEPS)
    files = [file for file in folder.rglob("*") if file.is_file()]
    what = harm(max(files, key=lambda file: file.stat().st_size), random)
    told = job.refused(workdir)
    previous = folder.with_name(str(STEPS - 2))
    if f"{folder} is damaged" not in told and f"{folder} could not be read" not in told:
        raise HarmError(f"it does not name {folder}: {told}")
    if f"--restore={previous}" not in told:
        raise HarmError(f"it does not say how to go back: {told}")
    job.finish(workdir, f"--restore={previous}")
    job.check_same(workdir)
    return {"harm": harm.__name__, "what": f"{what}; named; went on with --restore"}


def full_disk(job: Job) -> Row:
    """A run whose disk is filled by another program while it saves."""
    row = {"harm": "disk full"}
    with _small_disk(job.folder / "disk") as disk:
        if disk is None:
            return row | {"what": "not tried: no file system can be mounted here", "same": "-"}
        workdir, ballast = disk / "run", disk / "ballast"
        process = job.start(workdir)
        _wait(process, lambda: _saving(workdir, after=STEPS // 2))
        _fill(ballast)
        _, errors = process.communicate()
        if process.returncode == 0:
            raise HarmError("it ended well on a full disk")
        kept = TrainingCheckpoints(workdir, keep_last=1).latest_complete()
        if not kept:
            raise HarmError("no checkpoint is left")
        ballast.unlink()
        job.finish(workdir)
        job.check_same(workdir)
        told = _last_line(errors)
    return row | {"what": f"'{told[:100]}...'; went on from step {kept}"}


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[Path | None]:
    """A mounted file system of `DISK_MB`, or None where none can be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _fill(ballast: Path) -> None:
    """Writes until nothing more can be written."""
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        for size in (2**20, 2**12):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))


def _last_line(text: str) -> str:
    errors = [line for line in text.strip().split("\n") if line.startswith("error")]
    return (errors or text.strip().split("\n"))[-1]


def campaign(folder: Path, kills: int, seed: int) -> list[Row]:
    """Rows of the table: `same` is 'yes', 'NO' for a failure, or '-' for a harm not tried."""
    job, random = Job(folder), np.random.default_rng(seed)
    job.finish(job.whole)
    harms: list[Callable[[], Row]] = [
        *(lambda number=number: killed(job, number, random) for number in range(kills)),
        lambda: damaged(job, cut, random),
        lambda: damaged(job, flip, random),
        lambda: full_disk(job),
    ]
    rows = []
    for number, harm in enumerate(harms):
        try:
            row = {"same": "yes"} | harm()
        except HarmError as error:
            row = {"harm": f"harm {number}", "what": str(error), "same": "NO"}
        print(f"{number + 1}/{len(harms)}  {row}", file=sys.stderr, flush=True)
        rows.append(row)
    return rows


def main() -> None:
    """Harms the job, and prints what became of each run."""
    parser = argparse.ArgumentParser(
        prog="python -m vlt.bench.failures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", type=Path, required=True, help="a new folder")
    parser.add_argument("--kills", type=count, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.workdir.mkdir(parents=True)
    rows = campaign(options.workdir.absolute(), options.kills, options.seed)
    columns = [Column("harm", "harm"), Column("what", "what happened"), Column("same", "same end")]
    print(format_table(rows, columns))
    sys.exit(any(row["same"] == "NO" for row in rows))


if __name__ == "__main__":
    tell(main)
