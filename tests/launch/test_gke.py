"""Manifests and commands for GKE; manifests are checked against their schemas."""

import json
import shlex
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from helpers import ROOT
from jobset_schema import JOBSET
from launching import TRAINING, complaint, planned, printed

RUN = ("run", "one", "--image=example.com/vlt:1")
KUBERNETES = "1.34"


def manifest(monkeypatch, capsys, *options: str) -> dict[str, Any]:
    """The manifest that `run` hands to kubectl."""
    text = printed(monkeypatch, capsys, "gke", *RUN, *options, "--", *TRAINING)
    first, *lines, last = text.splitlines()
    assert shlex.split(first) == ["kubectl", "create", "--filename=-", "<<END"] and last == "END"
    return yaml.safe_load("\n".join(lines))


def check(document: dict[str, Any]) -> None:
    """Raises if the document violates the schemas of JobSet or Job."""
    jsonschema.validate(document, JOBSET)
    for replicated in document["spec"]["replicatedJobs"]:
        job = {"apiVersion": "batch/v1", "kind": "Job", **replicated["template"]}
        kubernetes_validate.validate(job, KUBERNETES, strict=True)


def job(document: dict[str, Any]) -> dict[str, Any]:
    (replicated,) = document["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]


@pytest.mark.parametrize(
    ("options", "hosts", "chips", "accelerator"),
    [
        (("--topology=v5e:2x4",), 1, 8, "tpu-v5-lite-podslice"),
        (("--topology=v5e:16x16", "--spot"), 64, 4, "tpu-v5-lite-podslice"),
        (("--topology=v5p:4x4x4", "--restarts=0"), 16, 4, "tpu-v5p-slice"),
        (("--topology=v6e:1x1", "--service-account=me"), 1, 1, "tpu-v6e-slice"),
    ],
)
def test_manifests_fit_their_schemas_and_the_slice(
    monkeypatch, capsys, options, hosts, chips, accelerator
):
    document = manifest(monkeypatch, capsys, *options)
    check(document)
    topology = options[0].partition(":")[2]
    spec = job(document)
    pod = spec["template"]["spec"]
    assert spec["parallelism"] == spec["completions"] == hosts
    assert spec["completionMode"] == "Indexed" and spec["backoffLimit"] == 0
    assert pod["containers"][0]["resources"] == {"limits": {"google.com/tpu": chips}}
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"] == accelerator
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == topology
    tolerated = [each["key"] for each in pod.get("tolerations", [])]
    assert tolerated == ["cloud.google.com/gke-spot"] * ("--spot" in options)
    assert ("cloud.google.com/gke-spot" in pod["nodeSelector"]) == ("--spot" in options)


def test_pods_have_time_to_save_and_a_stopped_run_is_no_success(monkeypatch, capsys):
    document = manifest(monkeypatch, capsys, "--topology=v5e:4x4", "--save-seconds=333")
    spec = job(document)
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] == 333
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    rules = spec["podFailurePolicy"]["rules"]
    assert [rule["action"] for rule in rules] == ["FailJob", "FailJob"]
    assert rules[0]["onPodConditions"][0]["type"] == "DisruptionTarget"
    assert rules[1]["onExitCodes"]["values"] == [143]
    policy = document["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 3
    assert policy["rules"][0]["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert policy["rules"][0]["onJobFailureReasons"] == ["PodFailurePolicy"]


def test_buckets_are_mounted_where_the_worker_looks(monkeypatch, capsys):
    training = "--config.data.train.manifest=gs://data_b.example/all.jsonl"
    monkeypatch.setattr(f"{__name__}.TRAINING", (*TRAINING, training))
    document = manifest(monkeypatch, capsys, "--topology=v5e:4x4")
    check(document)
    pod = job(document)["template"]["spec"]
    volumes = {v["name"]: v["csi"]["volumeAttributes"]["bucketName"] for v in pod["volumes"]}
    mounts = {m["mountPath"]: m["name"] for m in pod["containers"][0]["volumeMounts"]}
    assert {path: volumes[name] for path, name in mounts.items()} == {
        "/gcs/my-bucket": "my-bucket",
        "/gcs/data_b.example": "data_b.example",
    }
    assert pod["containers"][0]["args"] == list(TRAINING)
    annotations = job(document)["template"]["metadata"]["annotations"]
    assert annotations == {"gke-gcsfuse/volumes": "true"}
    assert all("metadata-cache-ttl-secs=0" in json.dumps(v) for v in pod["volumes"])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec/failurePolicy/maxRestart", 3),
        ("spec/failurePolicy/rules/0/action", "Restart"),
        ("spec/replicatedJobs/0/name", "Slice_1"),
        ("spec/replicatedJobs/0/template/spec/completions", "4"),
        ("spec/replicatedJobs/0/template/spec/template/spec/gracePeriodSeconds", 600),
        ("spec/replicatedJobs/0/template/spec/template/spec/containers/0/ports/0", 8482),
        ("spec/replicatedJobs/0/template/spec/template/spec/volumes/0/csi/attributes", {}),
        ("spec/replicatedJobs/0/template/spec/podFailurePolicy/rules/1/onExitCodes/value", [143]),
    ],
)
def test_the_schemas_refuse_what_is_wrong(monkeypatch, capsys, path, value):
    document = manifest(monkeypatch, capsys, "--topology=v5e:4x4")
    check(document)
    *keys, last = [int(key) if key.isdecimal() else key for key in path.split("/")]
    inner: Any = document
    for key in keys:
        inner = inner[key]
    inner[last] = value
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check(document)


POOL = ("pool", "slice-1", "--cluster=c", "--location=us-west4", "--zone=us-west4-a")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ("--topology=v5e:4x4", "--spot"),
            {
                *("--machine-type=ct5lp-hightpu-4t", "--num-nodes=4", "--tpu-topology=4x4"),
                *("--placement-type=COMPACT", "--spot"),
            },
        ),
        # Single-host nodes have no topology.
        (("--topology=v6e:2x4",), {"--machine-type=ct6e-standard-8t", "--num-nodes=1"}),
    ],
)
def test_pool(monkeypatch, capsys, options, words):
    (command,) = planned(monkeypatch, capsys, "gke", *POOL, *options)
    assert command[:5] == ["gcloud", "container", "node-pools", "create", "slice-1"]
    place = {"--cluster=c", "--location=us-west4", "--node-locations=us-west4-a"}
    assert set(command[5:]) == place | words


@pytest.mark.parametrize(
    ("arguments", "essential"),
    [
        (("delete_pool", *POOL[1:4], "--project=p"), ["node-pools delete slice-1", "--project=p"]),
        (("status", "one"), ["get jobset one", "--selector=jobset.sigs.k8s.io/jobset-name=one"]),
        (
            ("logs", "one", "--worker=3", "--lines=9", "--follow"),
            ["job-completion-index=3 --container=vlt --tail=9 --follow"],
        ),
        (("stop", "one"), ["kubectl delete jobset one --cascade=foreground"]),
        (
            ("image", "example.com/vlt:1"),
            [
                "git diff --quiet HEAD",
                "git clone --quiet --depth=1 file://",
                "--tag=example.com/vlt:1 build/image",
                "docker push example.com/vlt:1",
            ],
        ),
    ],
)
def test_other_subcommands(monkeypatch, capsys, arguments, essential):
    commands = planned(monkeypatch, capsys, "gke", *arguments)
    text = "\n".join(" ".join(command) for command in commands)
    assert [part for part in essential if part not in text] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*POOL, "--topology=v5e:2x8"), "no TPU slice 'v5e:2x8'; known: v5e:1x1, "),
        (("run", "one", "--topology=v5e:4x4"), "the following arguments are required: --image"),
        ((*RUN, "--topology=v4:4x4x4"), "no TPU slice 'v4:4x4x4'; known: "),
        ((*RUN, "--topology=v5e:4x4", "--", TRAINING[0], "--workdir=/x"), "must be gs://BUCKET/"),
        ((*RUN, "--topology=v5e:4x4"), "--config and --workdir: missing"),
        (
            (*RUN, "--topology=v5e:4x4", "--", f"--config={ROOT}/configs/clip.py:b16", TRAINING[1]),
            "name it from there",
        ),
        (("status", "one", "--", *TRAINING), "only `run` takes arguments after --"),
    ],
)
def test_mistakes_end_in_a_sentence(monkeypatch, capsys, arguments, message):
    assert message in complaint(monkeypatch, capsys, "gke", *arguments)


def test_the_image_runs_the_worker():
    """Its entry point is what the pods' arguments expect."""
    lines = (ROOT / "launch/Dockerfile").read_text().splitlines()
    assert lines[-1].startswith("ENTRYPOINT ")
    entry = json.loads(lines[-1].removeprefix("ENTRYPOINT "))
    assert entry == ["python", "-m", "launch.worker", "run", "--"]
