"""Runs on GPUs with Slurm, one process per GPU.

    python -m launch.slurm run NAME --nodes=2 --gpus-per-node=8 --time=24:00:00
        [--sbatch=--account=ME ...] -- --config=CONFIG --workdir=FOLDER
    python -m launch.slurm {status,stop} NAME

Each prints the commands that it runs; with --dry-run it only prints them. sbatch also reads what a
site needs from its own environment variables (SBATCH_ACCOUNT, SBATCH_PARTITION, ...). The job runs
with the Python that runs this command, in the current folder.
"""

import argparse
import pathlib
import re
import sys

from launch.commands import Command, LaunchError, main, name_of, subcommand, workdir_of

JOB = pathlib.Path(__file__).resolve().with_name("slurm_job.sh")


def run(arguments: argparse.Namespace) -> list[Command]:
    """Queues vlt.main, which saves before the time limit, is queued again and resumes.

    vlt.main's arguments follow --. All nodes must see the folders in them.
    """
    workdir = workdir_of(arguments.training)
    if workdir.startswith("gs://"):
        raise LaunchError(f"--workdir={workdir}: must be a folder that all nodes see")
    logs = f"{workdir}/logs"
    sbatch = (
        "sbatch",
        f"--job-name={arguments.name}",
        f"--nodes={arguments.nodes}",
        f"--gpus-per-node={arguments.gpus_per_node}",
        f"--ntasks-per-node={arguments.gpus_per_node}",
        f"--cpus-per-task={arguments.cpus_per_gpu}",
        f"--time={arguments.time}",
        f"--signal=B:USR1@{arguments.save_seconds}",
        "--requeue",
        "--open-mode=append",
        f"--output={logs}/%j.txt",
        *arguments.sbatch,
        str(JOB),
        logs,
        *(sys.executable, "-m", "vlt.main", *arguments.training),
    )
    return [Command(("mkdir", "-p", logs)), Command(sbatch)]


def status(arguments: argparse.Namespace) -> list[Command]:
    """Shows the jobs of this name that are waiting or running."""
    return [Command(("squeue", "--me", f"--name={arguments.name}"))]


def stop(arguments: argparse.Namespace) -> list[Command]:
    """Tells the run to save and end (SIGTERM); if it is still queued, removes it from the queue."""
    mine = ("scancel", "--me", f"--name={arguments.name}")
    return [
        Command((*mine, "--state=PENDING")),
        Command((*mine, "--state=RUNNING", "--signal=TERM")),
    ]


def duration(text: str) -> str:
    """Parses --time: HOURS:MM:SS or DAYS-HOURS:MM:SS; sbatch takes a bare number as minutes."""
    if not re.fullmatch(r"(\d+-)?\d+:\d\d:\d\d", text):
        raise argparse.ArgumentTypeError(f"{text!r}: must be HOURS:MM:SS or DAYS-HOURS:MM:SS")
    return text


def positive(text: str) -> int:
    """Parses a count, at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number >= 1")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """The command-line parser."""
    made = argparse.ArgumentParser(
        prog="python -m launch.slurm",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    subparsers = made.add_subparsers(required=True, metavar="COMMAND")
    for plan in (run, status, stop):
        each = subcommand(subparsers, plan)
        each.add_argument("name", type=name_of, help="of the job")
        if plan is run:
            _add_run(each)
    return made


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nodes", type=positive, required=True)
    parser.add_argument("--gpus-per-node", type=positive, required=True)
    text = "to decode videos with and more"
    parser.add_argument("--cpus-per-gpu", type=positive, default=8, help=text)
    text = "limit after which Slurm ends the job, HOURS:MM:SS"
    parser.add_argument("--time", type=duration, required=True, help=text)
    text = "before that limit, saving begins"
    parser.add_argument("--save-seconds", type=positive, default=300, help=text)
    text = "an option of sbatch, such as --sbatch=--account=ME; may come several times"
    parser.add_argument("--sbatch", action="append", default=[], metavar="OPTION", help=text)


if __name__ == "__main__":
    main(parser())
