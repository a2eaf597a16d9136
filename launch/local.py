"""A run by several processes on the CPU of one machine, to try out what a pod does.

    python -m launch.local --processes=N [--dry-run] -- --config=CONFIG --workdir=FOLDER

Each process writes its output to FOLDER/logs/process-I.txt; that of the first is also shown. If one
fails, all are ended; on SIGTERM or Ctrl-C all save and end, and a second one ends them at once.
"""

import argparse
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from launch.commands import Command, LaunchError, split, workdir_of
from launch.slurm import positive
from vlt.configuration import ConfigError

ADDRESS = "127.0.0.1"
POLL_SECONDS = 0.1
HANDED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
ONE_SECONDS = 0.3  # within which signals count as one
LAST_WORDS_SECONDS = 3.0  # in which the others may still log why they end


def plan(processes: int, training: Sequence[str], port: int) -> list[Command]:
    """The command of each process; the first one listens on the port."""
    shared = (
        *("env", "JAX_PLATFORMS=cpu", sys.executable, "-m", "vlt.main", *training),
        f"--coordinator={ADDRESS}:{port}",
        f"--process_count={processes}",
    )
    return [Command((*shared, f"--process_index={index}")) for index in range(processes)]


def run(commands: Sequence[Command], logs: pathlib.Path) -> None:
    """Runs all commands at the same time, until they end.

    Args:
      logs: folder for process-I.txt; the first one's output is also printed.

    Raises:
      LaunchError: a process failed; the message says which and how, and has its last line.
    """
    logs.mkdir(parents=True, exist_ok=True)
    files = [logs / f"process-{index}.txt" for index in range(len(commands))]
    children: list[subprocess.Popen] = []

    first: float | None = None

    def hand_on(signum: int, _: Any) -> None:
        nonlocal first
        if first is not None and time.monotonic() - first > ONE_SECONDS:
            sys.exit(128 + signum)  # kills the processes
        first = first or time.monotonic()
        for child in children:
            child.send_signal(signal.SIGTERM)

    previous = {signum: signal.signal(signum, hand_on) for signum in HANDED_ON}
    try:
        for command, file in zip(commands, files, strict=True):
            children.append(_start(command, file, shown=not children))
        copying = threading.Thread(target=_copy, args=(children[0].stdout, files[0]), daemon=True)
        copying.start()
        index = _first_to_fail(children)
    finally:
        for child in children:
            child.kill()
            child.wait()
        for signum, handler in previous.items():
            signal.signal(signum, handler)
    copying.join(LAST_WORDS_SECONDS)
    if index is not None:
        raise LaunchError(
            f"process {index} {_fate(children[index].returncode)}, so all were ended; "
            f"{files[index]} ends with: {_last_line(files[index])}"
        )


def _start(command: Command, file: pathlib.Path, shown: bool) -> subprocess.Popen:
    with file.open("wb") as log:
        return subprocess.Popen(
            command.words,
            stdout=subprocess.PIPE if shown else log,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,  # a terminal's Ctrl-C is passed on, once
        )


def _copy(lines: Any, file: pathlib.Path) -> None:
    with file.open("a", encoding="utf-8") as log:
        for line in lines:
            log.write(line)
            log.flush()
            print(line, end="", flush=True)


def _first_to_fail(children: Sequence[subprocess.Popen]) -> int | None:
    """Waits until all end or one fails; returns the index of that one, or None."""
    while any(child.poll() is None for child in children):
        for index, child in enumerate(children):
            if child.poll():
                time.sleep(LAST_WORDS_SECONDS)
                return index
        time.sleep(POLL_SECONDS)
    return next((index for index, child in enumerate(children) if child.returncode), None)


def _fate(status: int) -> str:
    if status < 0:
        return f"was ended by {signal.Signals(-status).name} (the same command goes on)"
    return f"ended with status {status}"


def _last_line(file: pathlib.Path) -> str:
    return (file.read_text("utf-8", "replace").splitlines() or ["nothing"])[-1]


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as listening:
        listening.bind((ADDRESS, 0))
        return listening.getsockname()[1]


def parser() -> argparse.ArgumentParser:
    """The parser of the command line before `--`."""
    made = argparse.ArgumentParser(
        prog="python -m launch.local",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--processes", type=positive, required=True, help="how many")
    made.add_argument("--dry-run", action="store_true", help="print the commands, run none")
    return made


def main(parser: argparse.ArgumentParser) -> None:
    """Runs the processes that the command line asks for, or only prints their commands."""
    ours, training = split(sys.argv[1:])
    arguments = parser.parse_args(ours)
    try:
        workdir = workdir_of(training)
        if workdir.startswith("gs://"):
            raise LaunchError(f"--workdir={workdir}: must be a folder of this machine")
        commands = plan(arguments.processes, training, free_port())
        for command in commands:
            print(command, file=sys.stdout if arguments.dry_run else sys.stderr, flush=True)
        if not arguments.dry_run:
            run(commands, pathlib.Path(workdir, "logs"))
    except (ConfigError, LaunchError) as error:
        parser.exit(1, f"error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130)


if __name__ == "__main__":
    main(parser())
