"""Runs on Cloud TPU VMs: a slice from creation to deletion, all its hosts at once.

    python -m launch.tpu_vm create NAME --zone=ZONE --topology=v5e:4x4 [--spot] [--queued]
    python -m launch.tpu_vm setup NAME --zone=ZONE
    python -m launch.tpu_vm run NAME --zone=ZONE -- --config=CONFIG --workdir=gs://BUCKET/PATH
    python -m launch.tpu_vm {status,logs,stop} NAME --zone=ZONE
    python -m launch.tpu_vm fetch NAME --zone=ZONE --workdir=gs://BUCKET/PATH OUT
    python -m launch.tpu_vm delete NAME --zone=ZONE [--queued]

Each prints the gcloud commands that it runs; with --dry-run it only prints them.
"""

import argparse
import pathlib
import shlex
from collections.abc import Sequence

from launch.commands import (
    BUILD,
    Command,
    LaunchError,
    check_sent,
    in_checkout,
    main,
    name_of,
    subcommand,
    workdir_of,
)
from launch.slices import slice_of

BUNDLE = f"{BUILD}/vlt.bundle"
LOG = "vlt-run/log.txt"  # in the home folder of each host, written by launch/worker.py


def create(arguments: argparse.Namespace) -> list[Command]:
    """Rents a slice. It costs money from then on, until `delete`."""
    part = arguments.topology
    words = [f"--accelerator-type={part.accelerator_type}"]
    if arguments.queued:
        words += [f"--node-id={arguments.name}", f"--runtime-version={part.kind.runtime}"]
    else:
        words += [f"--version={part.kind.runtime}"]
    if arguments.capacity:
        words += [arguments.capacity]
    if arguments.valid_for and not arguments.queued:
        raise LaunchError("--valid-for: only a request that waits (--queued) can expire")
    if arguments.valid_for:
        words += [f"--valid-until-duration={arguments.valid_for}"]
    return [_gcloud(_group(arguments), "create", arguments, *words)]


def setup(arguments: argparse.Namespace) -> list[Command]:
    """Installs this repository's commit, with its TPU packages, on all hosts."""
    dirty = "changes that are not committed would not reach the hosts; commit them first"
    script = "launch/setup_worker.sh"
    return in_checkout(
        Command(("git", "diff", "--quiet", "HEAD"), wrong=dirty),
        Command(("mkdir", "-p", BUILD)),
        Command(("git", "bundle", "create", BUNDLE, "HEAD")),
        _scp(arguments, [BUNDLE, script], f"{arguments.name}:", "all"),
        _ssh(arguments, f"bash {pathlib.Path(script).name}", "all"),
    )


def run(arguments: argparse.Namespace) -> list[Command]:
    """Starts vlt.main on all hosts; it keeps running after this command has ended.

    vlt.main's arguments follow --. In them, gs://BUCKET/PATH can stand for any file or folder: the
    bucket is mounted on every host.
    """
    _check_workdir(workdir_of(arguments.training))
    check_sent(arguments.training)
    return [_ssh(arguments, _worker("start", "--", *arguments.training), "all")]


def status(arguments: argparse.Namespace) -> list[Command]:
    """Prints the slice's state and, for each host, whether its run goes on or how it ended."""
    if arguments.queued:
        return [_gcloud("queued-resources", "describe", arguments, "--format=value(state.state)")]
    return [
        _gcloud("tpu-vm", "describe", arguments, "--format=value(state,health)"),
        _ssh(arguments, _worker("status"), "all"),
    ]


def logs(arguments: argparse.Namespace) -> list[Command]:
    """Shows the end of a host's log."""
    words = ["tail", f"--lines={arguments.lines}", *(["--follow=name"] * arguments.follow), LOG]
    return [_ssh(arguments, shlex.join(words), arguments.worker)]


def stop(arguments: argparse.Namespace) -> list[Command]:
    """Tells the run to save and end (SIGTERM), and waits for that."""
    return [_ssh(arguments, _worker("stop"), "all")]


def fetch(arguments: argparse.Namespace) -> list[Command]:
    """Copies the workdir, and the log of the first host, into a folder here."""
    workdir, out = _check_workdir(arguments.workdir), arguments.out
    if workdir.startswith("gs://"):
        copy = Command(("gcloud", "storage", "rsync", workdir, out, "--recursive"))
    else:
        copy = _scp(
            arguments, [f"{arguments.name}:{workdir.rstrip('/')}/*"], out, "0", recurse=True
        )
    log = _scp(arguments, [f"{arguments.name}:{LOG}"], f"{out}/log-worker-0.txt", "0")
    return [Command(("mkdir", "-p", out)), copy, log]


def delete(arguments: argparse.Namespace) -> list[Command]:
    """Gives the slice back and loses what is on its hosts' disks; what is in buckets stays."""
    force = ["--force"] if arguments.queued else []
    return [_gcloud(_group(arguments), "delete", arguments, *force)]


def _group(arguments: argparse.Namespace) -> str:
    return "queued-resources" if arguments.queued else "tpu-vm"


def _gcloud(group: str, verb: str, arguments: argparse.Namespace, *words: str) -> Command:
    place = _place(arguments)
    return Command(("gcloud", "compute", "tpus", group, verb, arguments.name, *place, *words))


def _place(arguments: argparse.Namespace) -> list[str]:
    project = [f"--project={arguments.project}"] if arguments.project else []
    return [f"--zone={arguments.zone}", *project]


def _ssh(arguments: argparse.Namespace, command: str, worker: str) -> Command:
    return _gcloud("tpu-vm", "ssh", arguments, f"--worker={worker}", f"--command={command}")


def _scp(
    arguments: argparse.Namespace,
    sources: Sequence[str],
    target: str,
    worker: str,
    recurse: bool = False,
) -> Command:
    words = [*sources, target, f"--worker={worker}", *(["--recurse"] * recurse)]
    return Command(("gcloud", "compute", "tpus", "tpu-vm", "scp", *words, *_place(arguments)))


def _worker(*words: str) -> str:
    """A command line of launch/worker.py for the hosts' shells."""
    return "cd vlt && " + shlex.join(["../vlt-venv/bin/python", "-m", "launch.worker", *words])


def _check_workdir(workdir: str) -> str:
    if workdir.startswith(("gs://", "/")):
        return workdir
    raise LaunchError(
        f"--workdir={workdir}: must be gs://BUCKET/PATH, which all hosts see, or the full path of "
        "a folder, on a slice of several hosts one that they share"
    )


def parser() -> argparse.ArgumentParser:
    """The command-line parser."""
    made = argparse.ArgumentParser(
        prog="python -m launch.tpu_vm",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    subparsers = made.add_subparsers(required=True, metavar="COMMAND")
    parsers = {
        plan.__name__: subcommand(subparsers, plan)
        for plan in (create, setup, run, status, logs, stop, fetch, delete)
    }
    for each in parsers.values():
        each.add_argument("name", type=name_of, help="of the slice")
        each.add_argument("--zone", required=True, help="such as us-west4-a")
        each.add_argument("--project", help="gcloud's own by default")
    for verb in ("create", "status", "delete"):
        text = "as a queued resource, which waits until there are chips"
        parsers[verb].add_argument("--queued", action="store_true", help=text)
    _add_create(parsers["create"])
    parsers["logs"].add_argument("--worker", default="0", help="number of a host, or all")
    parsers["logs"].add_argument("--lines", type=int, default=100)
    parsers["logs"].add_argument("--follow", action="store_true", help="show what comes, too")
    parsers["fetch"].add_argument("--workdir", required=True, help="as it was given to `run`")
    parsers["fetch"].add_argument("out", help="folder here")
    return made


def _add_create(parser: argparse.ArgumentParser) -> None:
    text = "the slice, such as v5e:4x4; a wrong one lists all"
    parser.add_argument("--topology", type=slice_of, required=True, help=text)
    capacity = parser.add_mutually_exclusive_group()
    for flag, text in (
        ("--spot", "cheap chips that can be taken away at any time"),
        ("--reserved", "chips of the project's reservation"),
    ):
        capacity.add_argument(flag, dest="capacity", action="store_const", const=flag, help=text)
    text = "how long a queued request may wait, such as 6h; as long as it takes by default"
    parser.add_argument("--valid-for", metavar="DURATION", help=text)


if __name__ == "__main__":
    main(parser())
