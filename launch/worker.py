"""On a host of a run: starts vlt.main, keeps its log, and passes SIGTERM and Ctrl-C on to it.

    python -m launch.worker run -- ARGUMENTS      in the foreground, as containers do
    python -m launch.worker start -- ARGUMENTS    in the background, outliving the caller
    python -m launch.worker {status,stop}         of the run in the background

ARGUMENTS are vlt.main's, with gs://BUCKET/PATH for the folder /gcs/BUCKET/PATH; `start` mounts the
buckets, `run` requires them to be mounted. A host has one run in the background at a time;
~/vlt-run holds its log.txt, state.json and lock.
"""

import argparse
import fcntl
import getpass
import json
import os
import pathlib
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
from typing import Any

from launch import buckets
from launch.commands import split

# A shell's status for SIGTERM. vlt.main ends with 0 once it has saved, but must not look finished.
STOPPED = 128 + signal.SIGTERM
SAVE_SECONDS = 600


class WorkerError(RuntimeError):
    """Something prevents a run, or prevents stopping it."""


def run(arguments: list[str], folder: pathlib.Path | None = None) -> int:
    """Runs vlt.main to its end.

    Args:
      folder: where the process to stop is recorded and, at the end, when and how it ended.

    Returns:
      its exit status (128 plus the number of the signal that killed it), or STOPPED if it was told
      to stop.

    Raises:
      WorkerError: a bucket is not mounted, so that what is written would be lost.
    """
    for bucket in buckets.buckets(arguments):
        if not (buckets.ROOT / bucket).is_mount():
            raise WorkerError(f"gs://{bucket} is not mounted at {buckets.ROOT / bucket}")
    child: subprocess.Popen | None = None
    stopped = False

    def hand_on(*_: Any) -> None:
        nonlocal stopped
        stopped = True
        if child is not None:
            child.send_signal(signal.SIGTERM)

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, hand_on)
    _note(folder, pid=os.getpid())
    # The child inherits the lock of `start`, which is held as long as either process lives. It has
    # a process group of its own, so that a terminal's Ctrl-C is passed on, once.
    child = subprocess.Popen(training_command(arguments), close_fds=False, process_group=0)
    if stopped:
        child.send_signal(signal.SIGTERM)
    status = child.wait()
    if stopped:
        status = STOPPED
    elif status < 0:
        status = 128 - status
    _note(folder, ended=_now(), status=status)
    return status


def training_command(arguments: list[str]) -> list[str]:
    """The command that trains."""
    return [sys.executable, "-m", "vlt.main", *buckets.as_folders(arguments)]


def start(arguments: list[str], folder: pathlib.Path) -> None:
    """Starts `run` in a session of its own.

    Raises:
      WorkerError: a run is under way already, or a bucket cannot be mounted.
    """
    for bucket in buckets.buckets(arguments):
        for command in mount_commands(bucket):
            if subprocess.run(command).returncode:
                raise WorkerError(f"`{shlex.join(command)}` failed")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock, (folder / "log.txt").open("a") as log:
        if not _locked(lock):
            raise WorkerError(f"a run is under way: {describe(folder)}")
        _write(folder, {"started": _now(), "arguments": arguments})
        print(f"{_now()} {shlex.join(training_command(arguments))}", file=log, flush=True)
        own = [sys.executable, "-m", "launch.worker", "run", f"--folder={folder}", "--", *arguments]
        subprocess.Popen(
            own,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[lock.fileno()],
            start_new_session=True,
        )


def mount_commands(bucket: str) -> list[list[str]]:
    """Commands that mount a bucket; none if it is mounted."""
    target = buckets.ROOT / bucket
    if target.is_mount():
        return []
    return [
        ["sudo", "mkdir", "-p", str(target)],
        ["sudo", "chown", getpass.getuser(), str(target)],
        ["gcsfuse", *(f"--{option}" for option in buckets.OPTIONS), bucket, str(target)],
    ]


def describe(folder: pathlib.Path) -> str:
    """Says whether the run in the background goes on, or how it ended."""
    state = _read(folder)
    if not state:
        return "nothing was started here"
    text = f"{shlex.join(state['arguments'])} since {state['started']}"
    if running(folder):
        return f"running {text}"
    if "status" not in state:
        return f"killed without a word: {text}"
    how = "stopped" if state["status"] == STOPPED else f"ended with status {state['status']}"
    return f"{how} at {state['ended']}: {text}"


def running(folder: pathlib.Path) -> bool:
    """Whether a run holds the lock."""
    if not (folder / "lock").exists():
        return False
    with (folder / "lock").open("r") as lock:
        return not _locked(lock)


def stop(folder: pathlib.Path, seconds: float = SAVE_SECONDS) -> None:
    """Tells the run to save and end, and waits for that.

    Raises:
      WorkerError: it has not ended after `seconds`, or cannot be told.
    """
    told = False
    end = time.monotonic() + seconds
    while running(folder):
        told = told or _tell(folder)
        if time.monotonic() > end:
            raise WorkerError(f"told to stop, but still running after {seconds:g} s; see the log")
        time.sleep(0.2)


def _tell(folder: pathlib.Path) -> bool:
    """Sends SIGTERM; returns False if the run is still starting and has recorded no process."""
    pid = _read(folder).get("pid")
    if pid is None:
        return False
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        raise WorkerError(f"process {pid} was killed, but its vlt.main runs; end that") from None
    return True


def _locked(file: Any) -> bool:
    """Whether the lock could be taken; closing the file releases it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(folder: pathlib.Path) -> dict[str, Any]:
    """The recorded state of the last run; empty before the first."""
    file = folder / "state.json"
    return json.loads(file.read_text("utf-8")) if file.exists() else {}


def _write(folder: pathlib.Path, state: dict[str, Any]) -> None:
    unfinished = folder / f"state.{secrets.token_hex(8)}.tmp"
    with unfinished.open("x", encoding="utf-8") as file:
        file.write(json.dumps(state))
    unfinished.replace(folder / "state.json")


def _note(folder: pathlib.Path | None, **more: Any) -> None:
    if folder is not None:
        _write(folder, _read(folder) | more)


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %Z")


def commands(verb: str, training: list[str], folder: pathlib.Path) -> list[list[str]]:
    """The commands that `run`, `start` and `stop` execute, for --dry-run to print."""
    if verb == "stop":
        return [["kill", "-TERM", str(_read(folder).get("pid"))]] if running(folder) else []
    mounts = [mount_commands(bucket) for bucket in buckets.buckets(training) if verb == "start"]
    return [*sum(mounts, []), training_command(training)] if training else []


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", choices=["run", "start", "status", "stop"])
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run none")
    text = "~/vlt-run by default; a `run` in the foreground has none"
    parser.add_argument("--folder", type=pathlib.Path, help=text)
    ours, training = split(sys.argv[1:])
    arguments = parser.parse_args(ours)
    verb, folder = arguments.verb, arguments.folder or pathlib.Path("~/vlt-run").expanduser()
    if bool(training) != (verb in ("run", "start")):
        parser.error("vlt.main's arguments come after --, with `run` and `start` only")
    if arguments.dry_run:
        print(*map(shlex.join, commands(verb, training, folder)), sep="\n")
        return
    try:
        if verb == "run":
            sys.exit(run(training, arguments.folder))
        elif verb == "start":
            start(training, folder)
        elif verb == "stop":
            stop(folder)
        print(f"{socket.gethostname()}: {describe(folder)}")
    except WorkerError as error:
        sys.exit(f"{socket.gethostname()}: {error}")


if __name__ == "__main__":
    main()
