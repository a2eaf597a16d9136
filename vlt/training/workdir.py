"""The folder of a run: it belongs to one config, and one run at a time writes into it."""

import contextlib
import itertools
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock
import jax
from ml_collections import ConfigDict

from vlt import configuration
from vlt.runtime import processes, stopping
from vlt.storage.files import listed, refuse_link, write_whole

LOCK = "run.lock"
SINCE = "run.since"  # when the lock was taken
LEASE = 60.0  # seconds without a sign of life after which a process on another host is gone
HEARTBEAT = 5.0  # seconds between signs of life
# What a run leaves in its folder. NAME: name of an evaluation.
FILES = {
    "config.json": "the config, which going on must have, and `vlt eval` and `vlt export` read",
    "config.txt": "the same, a `key = value` a line, to be compared by `diff`",
    "versions.json": "Python, the packages that decide a result, and the commit it ran on",
    "metrics.jsonl": "an object a line, `step` and scalars: losses, evaluations, speed (`perf/`)",
    "events.out.tfevents.*": "the same for TensorBoard",
    "checkpoints/STEP": "trained leaves, optimizer and place in the data, to go on from; what was "
    "measured there is in `evaluation.json`",
    "checkpoints/STEP.aside": "a checkpoint that `--restore` went back behind",
    "run.json": "results of a run that has ended, which then trains nothing more",
    "results.json": "a row of results for each run of the comparison",
    "results.md": "the same as a table",
    "curves.png": "losses and evaluations over the steps, of all rows",
    "twins.png": "clips with their twins, and which caption each model chose",
    "twins-NAME.json": "the videos, captions and scores of each pair of twins",
    "captions-NAME.json": "the captions that were written, by id",
    "answers-NAME.json": "questions with the answers that were found",
    "classes-NAME.txt": "a table of classes, the least accurate first",
    "confusion-NAME.png": "which class was taken for which",
    "skipped.jsonl": "videos that could not be read, a line each; of further processes "
    "`skipped-INDEX.jsonl`",
    "nonfinite-STEP": "of a run that ended because its loss was not a number: the trained leaves "
    "before that step, and the batch's ids in `report.json`",
    "vlt.*": "what each start logged; `vlt.INFO` is that of the latest",
    "logs/process-INDEX.txt": "what each process of `launch.local` printed",
    LOCK: "while a run lives, whose the folder is",
    SINCE: "since when",
}
# What may be in the folder before its first run writes the config: logs, locks, our leftovers.
_BEFORE = (f"{LOCK}*", SINCE, "logs", "vlt.*", "vlt-*.*", ".*.unfinished-*", "lost+found")
# Where a run computes, which may change when it resumes.
RUNTIME_KEYS = ("mesh.", "sharding.", "data.workers", "data.decode_timeout", "train.watchdog")
# What may differ where a run is only evaluated.
OF_EVALUATION = ("evals", "table", "more_tables")

_held: set[Path] = set()  # locks of this process


class OtherConfigError(ValueError):
    """The workdir holds a run of another config."""


class WorkdirError(ValueError):
    """The workdir cannot be written, is not a run's, or is in use."""


def prepare(workdir: Path) -> None:
    """Creates the folder if absent, and checks that it can be written and is a run's.

    Raises:
        WorkdirError: nothing can be written there, it holds links, or its contents are not a run's.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=workdir).close()
    except FileExistsError as error:
        raise WorkdirError(f"--workdir={workdir}: {error.filename} is not a folder") from error
    except OSError as error:
        raise WorkdirError(f"--workdir={workdir} cannot be written: {error.strerror}") from error
    entries = sorted(workdir.iterdir())
    if links := [e.name for e in entries if e.is_symlink() and not e.match("vlt*.*")]:
        raise WorkdirError(
            f"{workdir} holds links ({listed(links)}); a run writes through none: remove them, or "
            "choose another --workdir"
        )
    if configuration.is_run(workdir):
        return
    others = [e.name for e in entries if not any(e.match(pattern) for pattern in _BEFORE)]
    if others:
        raise WorkdirError(
            f"{workdir} is not the folder of a run: it holds {listed(others)} but no config.json "
            "of a run; choose an empty folder, or a new one, as --workdir"
        )


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[None]:
    """Keeps other runs out of a workdir; of several processes, the first does it for all.

    The lock of a dead process does not count: on this host at once, on another one after `LEASE`
    seconds without a sign of life, by this process's own clock.

    Raises:
        WorkdirError: a live run holds the workdir; the message says which.
    """
    path = workdir.resolve() / LOCK
    if path in _held or not processes.is_primary():
        yield
        return
    lock = filelock.SoftFileLease(
        path,
        lease_duration=LEASE,
        heartbeat_interval=HEARTBEAT,
        on_compromise=lambda loss: _lost(workdir, loss.reason),
        thread_local=False,
    )
    _acquire(lock, workdir)
    _held.add(path)
    try:
        write_whole(workdir / SINCE, time.strftime("%Y-%m-%d %H:%M:%S %Z\n"))
        yield
    finally:
        _held.remove(path)
        with stopping.deferred(), contextlib.suppress(OSError):
            (workdir / SINCE).unlink(missing_ok=True)
            lock.release()


def _acquire(lock: filelock.SoftFileLease, workdir: Path) -> None:
    try:
        lock.acquire(timeout=2 * LEASE, poll_interval=0.1, cancel_check=_lives(lock))
    except OSError as error:
        if not isinstance(error, filelock.Timeout):
            raise WorkdirError(f"{lock.lock_file} cannot be written: {error.strerror}") from error
        owner = lock.owner
        who = f"process {owner.pid} of {owner.hostname.partition('?')[0]}" if owner else "another"
        with contextlib.suppress(OSError):
            who += f", since {(workdir / SINCE).read_text(encoding='utf-8').strip()}"
        raise WorkdirError(
            f"{workdir} is in use by a live run ({who}): wait for it, stop it, or choose "
            f"another --workdir. If no such process exists any more, remove {lock.lock_file}"
        ) from None


def _lives(lock: filelock.SoftFileLease) -> Callable[[], bool]:
    """A check, polled while another process has the lock: whether that one gave a sign of life."""
    first: int | None = None

    def check() -> bool:
        nonlocal first
        owner = lock.owner
        if owner is None:
            return False
        if owner.hostname == socket.gethostname() and not _is_zombie(owner.pid):
            return True  # a dead process of this host would have lost the lock
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(lock.lock_file).st_mtime_ns
            if first is None:
                first = found
                print(
                    f"{lock.lock_file} is of process {owner.pid} of {owner.hostname}: waiting up "
                    f"to {LEASE:.0f} s for a sign of life",
                    file=sys.stderr, flush=True,
                )  # fmt: skip
            return found != first
        return False

    return check


def _is_zombie(pid: int) -> bool:
    """Whether the process has ended, but its parent has not collected its exit status."""
    with contextlib.suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state == "Z"
    return False


def _lost(workdir: Path, reason: str) -> None:
    processes.end(
        f"{workdir} is no longer this run's ({LOCK}: {reason}): another run may write there, so "
        f"this one ends; {processes.GO_ON}"
    )


def claim(workdir: Path, config: ConfigDict, mode: str = "train") -> None:
    """Claims the workdir for this config, or checks that it is claimed, in all processes alike.

    mode: with `eval`, the evaluations may differ from the run's own.

    Raises:
        WorkdirError: the workdir is not a run's, or cannot be written.
        OtherConfigError: it is another config's.
        DistributedError: processes were given different configs, or see different folders.
    """
    processes.check_alike("--config and its overrides", configuration.resolved_text(config))
    if processes.is_primary():
        prepare(workdir)
        if not started(workdir):
            configuration.save_run(workdir, config)
    processes.wait_for_all(f"claim {workdir}")
    if not (workdir / "config.json").exists():
        raise processes.DistributedError(
            f"process {jax.process_index()} does not see what the first one writes to {workdir}: "
            "--workdir must be a folder that all share"
        )
    differing = configuration.differing_keys(configuration.load_saved(workdir), config)
    free = (*RUNTIME_KEYS, *OF_EVALUATION) if mode == "eval" else RUNTIME_KEYS
    lines = [
        f"  {key}: {there} there, {here} now"
        for key, (there, here) in differing.items()
        if not key.startswith(free)
    ]
    if lines:
        advice = "choose another --workdir or remove it"
        if mode == "eval":
            advice = "without --config, --mode=eval takes the run's own; only evals may differ"
        raise OtherConfigError(
            f"{workdir} holds a run of another config; {advice}:\n" + "\n".join(lines)
        )


def started(workdir: Path) -> bool:
    """Whether a run of the workdir got further than its config, which may have been wrong."""
    logged = any(file.stat().st_size for file in workdir.rglob("metrics.jsonl"))
    kept = (workdir.rglob(name) for name in ("run.json", "results.json", "checkpoints/*"))
    return logged or any(True for _ in itertools.chain(*kept))


def go_back(workdir: Path, checkpoint: Path) -> None:
    """Makes WORKDIR/checkpoints/STEP, or one in a row's folder, the latest checkpoint of its run,
    which goes on from there even if it had ended.

    Raises:
        CheckpointError: it is not a complete checkpoint of the workdir.
    """
    from vlt.training.checkpoints import CheckpointError, TrainingCheckpoints

    if checkpoint.parent.name != "checkpoints" or not checkpoint.name.isdecimal():
        raise CheckpointError(f"--restore={checkpoint}: must be WORKDIR/checkpoints/STEP")
    folder = checkpoint.parent.parent
    if not folder.resolve().is_relative_to(workdir.resolve()):
        raise CheckpointError(f"--restore={checkpoint}: is not in --workdir={workdir}")
    refuse_link(checkpoint)
    TrainingCheckpoints(folder, keep_last=1).go_back(int(checkpoint.name))
    if processes.is_primary():
        (folder / "run.json").unlink(missing_ok=True)
    processes.wait_for_all(f"{folder} has not ended")
