"""JobSet's definition (jobset.x-k8s.io/v1alpha2) of the fields that our manifests have.

Its authors publish it for clusters, and no package contains it. This is the part of the definition
above the Jobs, which are Kubernetes' own and have a published schema in kubernetes-validate. A
field that is missing here must be added from the definition before it is used.
"""

from typing import Any

NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}


def record(required: tuple[str, ...] = (), **fields: Any) -> dict[str, Any]:
    """The schema of an object without other fields."""
    return {
        "type": "object",
        "properties": fields,
        "required": list(required),
        "additionalProperties": False,
    }


RULE = record(
    ("action", "name"),
    name={"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
    action={
        "enum": [
            "FailJobSet",
            "RestartJobSet",
            "RestartJobSetAndIgnoreMaxRestarts",
            "RestartJob",
            "RestartJobAndIgnoreMaxRestarts",
        ]
    },
    onJobFailureReasons={
        "type": "array",
        "items": {
            "enum": [
                "BackoffLimitExceeded",
                "DeadlineExceeded",
                "FailedIndexes",
                "MaxFailedIndexesExceeded",
                "PodFailurePolicy",
            ]
        },
    },
)
JOBSET = record(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata=record(
        ("name",),
        name=NAME,
        annotations={"type": "object", "additionalProperties": {"type": "string"}},
    ),
    spec=record(
        failurePolicy=record(
            maxRestarts={"type": "integer", "minimum": 0},
            rules={"type": "array", "items": RULE},
        ),
        replicatedJobs={
            "type": "array",
            "items": record(
                ("name", "template"),
                name=NAME,
                replicas={"type": "integer", "minimum": 0},
                # A Job without apiVersion and kind.
                template=record(metadata={"type": "object"}, spec={"type": "object"}),
            ),
        },
    ),
)
