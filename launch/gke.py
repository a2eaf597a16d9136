"""Runs on TPU slices of Google Kubernetes Engine.

    python -m launch.gke image IMAGE
    python -m launch.gke pool NAME --cluster=CLUSTER --location=REGION --zone=ZONE
        --topology=v5e:4x4 [--spot]
    python -m launch.gke run NAME --image=IMAGE --topology=v5e:4x4 [--spot]
        -- --config=CONFIG --workdir=gs://BUCKET/PATH
    python -m launch.gke {status,logs,stop} NAME
    python -m launch.gke delete_pool NAME --cluster=CLUSTER --location=REGION

Each prints the commands that it runs, `run` also the manifest; with --dry-run it only prints them.
The cluster is that of kubectl's own context.
"""

import argparse

import yaml

from launch.commands import (
    BUILD,
    ROOT,
    Command,
    LaunchError,
    check_sent,
    in_checkout,
    main,
    name_of,
    subcommand,
    workdir_of,
)
from launch.jobset import CONTAINER, Run, manifest
from launch.slices import slice_of
from launch.worker import SAVE_SECONDS

OF_JOBSET = "jobset.sigs.k8s.io/jobset-name"
OF_HOST = "batch.kubernetes.io/job-completion-index"


def image(arguments: argparse.Namespace) -> list[Command]:
    """Builds the container image of this repository's commit and pushes it."""
    context = f"{BUILD}/image"
    dirty = "changes that are not committed would not be in the image; commit them first"
    build = ("docker", "build", "--platform=linux/amd64", f"--file={context}/launch/Dockerfile")
    return in_checkout(
        Command(("git", "diff", "--quiet", "HEAD"), wrong=dirty),
        Command(("rm", "-rf", context)),
        Command(("git", "clone", "--quiet", "--depth=1", f"file://{ROOT}", context)),
        Command((*build, f"--tag={arguments.image}", context)),
        Command(("docker", "push", arguments.image)),
    )


def pool(arguments: argparse.Namespace) -> list[Command]:
    """Rents a slice as a node pool. It costs money from then on, until `delete_pool`."""
    part = arguments.topology
    words = [
        *_pool_words("create", arguments),
        f"--node-locations={arguments.zone}",
        f"--machine-type={part.machine_type}",
        f"--num-nodes={part.hosts}",
    ]
    if part.hosts > 1:
        words += ["--placement-type=COMPACT", f"--tpu-topology={part.topology}"]
    if arguments.spot:
        words += ["--spot"]
    return [Command(words)]


def delete_pool(arguments: argparse.Namespace) -> list[Command]:
    """Gives the slice back."""
    return [Command(_pool_words("delete", arguments))]


def run(arguments: argparse.Namespace) -> list[Command]:
    """Starts vlt.main on all hosts of a slice; a preempted run resumes where it stopped.

    vlt.main's arguments follow --. In them, gs://BUCKET/PATH can stand for any file or folder: the
    bucket is mounted in every pod.
    """
    workdir = workdir_of(arguments.training)
    if not workdir.startswith("gs://"):
        raise LaunchError(
            f"--workdir={workdir}: must be gs://BUCKET/PATH; a folder of a pod ends with the pod"
        )
    check_sent(arguments.training)
    described = Run(
        arguments.name,
        arguments.topology,
        arguments.image,
        arguments.training,
        arguments.service_account,
        arguments.spot,
        arguments.save_seconds,
        arguments.restarts,
    )
    text = yaml.safe_dump(manifest(described), sort_keys=False)
    return [Command(("kubectl", "create", "--filename=-"), stdin=text)]


def status(arguments: argparse.Namespace) -> list[Command]:
    """Shows the run and its pods."""
    selector = f"--selector={OF_JOBSET}={arguments.name}"
    return [
        Command(("kubectl", "get", "jobset", arguments.name)),
        Command(("kubectl", "get", "pods", selector, "--output=wide")),
    ]


def logs(arguments: argparse.Namespace) -> list[Command]:
    """Shows the end of a host's log."""
    selector = f"--selector={OF_JOBSET}={arguments.name},{OF_HOST}={arguments.worker}"
    words = ["kubectl", "logs", selector, f"--container={CONTAINER}", f"--tail={arguments.lines}"]
    return [Command(words + ["--follow"] * arguments.follow)]


def stop(arguments: argparse.Namespace) -> list[Command]:
    """Tells the run to save and end (SIGTERM), and removes it once it has."""
    return [Command(("kubectl", "delete", "jobset", arguments.name, "--cascade=foreground"))]


def _pool_words(verb: str, arguments: argparse.Namespace) -> list[str]:
    words = ["gcloud", "container", "node-pools", verb, arguments.name]
    words += [f"--cluster={arguments.cluster}", f"--location={arguments.location}"]
    return words + ([f"--project={arguments.project}"] if arguments.project else [])


def parser() -> argparse.ArgumentParser:
    """The command-line parser."""
    made = argparse.ArgumentParser(
        prog="python -m launch.gke",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    subparsers = made.add_subparsers(required=True, metavar="COMMAND")
    text = "address to push it to, such as us-docker.pkg.dev/PROJECT/REPOSITORY/vlt:1"
    subcommand(subparsers, image).add_argument("image", help=text)
    for plan in (pool, delete_pool):
        each = subcommand(subparsers, plan)
        each.add_argument("name", type=name_of, help="of the node pool")
        each.add_argument("--cluster", required=True)
        each.add_argument("--location", required=True, help="of the cluster: a region or zone")
        each.add_argument("--project", help="gcloud's own by default")
        if plan is pool:
            each.add_argument("--zone", required=True, help="of the slice")
            _add_slice(each)
    for plan in (run, status, logs, stop):
        each = subcommand(subparsers, plan)
        each.add_argument("name", type=name_of, help="of the run")
        if plan is run:
            _add_run(each)
        if plan is logs:
            each.add_argument("--worker", type=int, default=0, help="number of the host")
            each.add_argument("--lines", type=int, default=100)
            each.add_argument("--follow", action="store_true", help="show what comes, too")
    return made


def _add_slice(parser: argparse.ArgumentParser) -> None:
    text = "the slice, such as v5e:4x4; a wrong one lists all"
    parser.add_argument("--topology", type=slice_of, required=True, help=text)
    text = "cheap chips that can be taken away at any time"
    parser.add_argument("--spot", action="store_true", help=text)


def _add_run(parser: argparse.ArgumentParser) -> None:
    _add_slice(parser)
    parser.add_argument("--image", required=True, help="as it was given to `image`")
    text = "of Kubernetes, that may read and write the buckets"
    parser.add_argument("--service-account", default="vlt", help=text)
    text = "that a pod has to save"
    parser.add_argument("--save-seconds", type=int, default=SAVE_SECONDS, help=text)
    text = "of all pods, after failures; preemptions do not count"
    parser.add_argument("--restarts", type=int, default=3, help=text)


if __name__ == "__main__":
    main(parser())
