"""The Kubernetes manifest of a run on a TPU slice of GKE: a JobSet with one pod for each host.

JAX finds the other processes through environment variables that GKE sets in these pods.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from launch import buckets
from launch.slices import Slice
from launch.worker import STOPPED

CONTAINER = "vlt"
TPU_PORTS = (8471, 8482)  # the TPU runtime's, and that of JAX's coordinator


class Run(NamedTuple):
    """What a manifest is made from.

    Attributes:
      name: name of the JobSet.
      part: the slice.
      image: image built from launch/Dockerfile, as it was pushed.
      arguments: arguments of vlt.main, in which gs://BUCKET/PATH stands for files and folders.
      service_account: Kubernetes service account that may read and write the buckets.
      spot: whether the nodes are Spot VMs.
      save_seconds: seconds that a pod has to save, from SIGTERM on.
      restarts: most restarts of all pods after failures; preemptions do not count.
    """

    name: str
    part: Slice
    image: str
    arguments: Sequence[str]
    service_account: str
    spot: bool
    save_seconds: int
    restarts: int


def manifest(run: Run) -> dict[str, Any]:
    """The JobSet, in the form that kubectl takes."""
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": run.name,
            # All pods on one slice, and nothing else on it.
            "annotations": {
                "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
            },
        },
        "spec": {
            "failurePolicy": {
                "maxRestarts": run.restarts,
                "rules": [
                    {
                        "name": "preempted",
                        "action": "RestartJobSetAndIgnoreMaxRestarts",
                        "onJobFailureReasons": ["PodFailurePolicy"],
                    }
                ],
            },
            "replicatedJobs": [
                {"name": "slice", "replicas": 1, "template": {"spec": _job(run)}},
            ],
        },
    }


def _job(run: Run) -> dict[str, Any]:
    hosts = run.part.hosts
    return {
        "parallelism": hosts,
        "completions": hosts,
        "completionMode": "Indexed",
        # No process can continue without the others: the JobSet restarts all from the checkpoint.
        "backoffLimit": 0,
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                },
                {
                    "action": "FailJob",
                    "onExitCodes": {
                        "containerName": CONTAINER,
                        "operator": "In",
                        "values": [STOPPED],
                    },
                },
            ]
        },
        "template": {
            "metadata": {"annotations": {"gke-gcsfuse/volumes": "true"}},
            "spec": _pod(run),
        },
    }


def _pod(run: Run) -> dict[str, Any]:
    selector = {
        "cloud.google.com/gke-tpu-accelerator": run.part.kind.gke,
        "cloud.google.com/gke-tpu-topology": run.part.topology,
    }
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": run.save_seconds,
        "serviceAccountName": run.service_account,
        "nodeSelector": selector,
        "containers": [_container(run)],
        "volumes": _volumes(run),
    }
    if run.spot:
        spot = "cloud.google.com/gke-spot"
        pod["nodeSelector"] = selector | {spot: "true"}
        pod["tolerations"] = [
            {"key": spot, "operator": "Equal", "value": "true", "effect": "NoSchedule"}
        ]
    return pod


def _container(run: Run) -> dict[str, Any]:
    return {
        "name": CONTAINER,
        "image": run.image,
        "args": list(run.arguments),
        "ports": [{"containerPort": port} for port in TPU_PORTS],
        # All chips of the host: libtpu gives them to one process.
        "resources": {"limits": {"google.com/tpu": run.part.chips_per_host}},
        "volumeMounts": [
            {"name": each["name"], "mountPath": str(buckets.ROOT / bucket)}
            for each, bucket in zip(_volumes(run), buckets.buckets(run.arguments), strict=True)
        ],
    }


def _volumes(run: Run) -> list[dict[str, Any]]:
    options = ",".join(buckets.OPTIONS)
    return [
        {
            "name": f"bucket-{number}",
            "csi": {
                "driver": "gcsfuse.csi.storage.gke.io",
                "volumeAttributes": {"bucketName": bucket, "mountOptions": options},
            },
        }
        for number, bucket in enumerate(buckets.buckets(run.arguments))
    ]
