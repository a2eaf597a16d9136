"""Commands for TPU VMs: their text, and their effect with local folders as the hosts."""

import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import pytest
from helpers import ROOT
from launching import TRAINING, complaint, launch, planned, program, wait_for

from launch import commands
from launch.tpu_vm import LOG

PLACE = ("pod", "--zone=us-west4-a")


@pytest.mark.parametrize(
    ("arguments", "group", "words"),
    [
        (
            ("--topology=v5e:16x16", "--spot"),
            "tpu-vm",
            {"--accelerator-type=v5litepod-256", "--version=v2-alpha-tpuv5-lite", "--spot"},
        ),
        (
            ("--topology=v5p:4x4x4", "--queued", "--valid-for=6h"),
            "queued-resources",
            {
                "--node-id=pod",
                "--accelerator-type=v5p-128",
                "--runtime-version=v2-alpha-tpuv5",
                "--valid-until-duration=6h",
            },
        ),
        (
            ("--topology=v6e:4x4", "--queued", "--reserved", "--project=mine"),
            "queued-resources",
            {
                "--node-id=pod",
                "--accelerator-type=v6e-16",
                "--runtime-version=v2-alpha-tpuv6e",
                "--reserved",
                "--project=mine",
            },
        ),
    ],
)
def test_create(monkeypatch, capsys, arguments, group, words):
    (command,) = planned(monkeypatch, capsys, "tpu_vm", "create", *PLACE, *arguments)
    assert command[:6] == ["gcloud", "compute", "tpus", group, "create", "pod"]
    assert set(command[6:]) == {"--zone=us-west4-a"} | words


def test_setup_sends_the_commit_to_all_hosts(monkeypatch, capsys):
    commands = planned(monkeypatch, capsys, "tpu_vm", "setup", *PLACE)
    assert commands[0] == ["git", "diff", "--quiet", "HEAD"]
    bundle = commands[2][3]
    assert commands[2] == ["git", "bundle", "create", bundle, "HEAD"]
    assert commands[3][4:8] == ["scp", bundle, "launch/setup_worker.sh", "pod:"]
    assert commands[4][4] == "ssh" and "--command=bash setup_worker.sh" in commands[4]
    assert all("--worker=all" in command for command in commands[3:])


def test_run_starts_on_all_hosts(monkeypatch, capsys):
    (command,) = planned(
        monkeypatch, capsys, "tpu_vm", "run", *PLACE, "--", *TRAINING, "--mode=eval"
    )
    assert command[4] == "ssh" and "--worker=all" in command
    remote = command[-1].removeprefix("--command=cd vlt && ")
    assert shlex.split(remote)[1:] == [
        "-m",
        "launch.worker",
        "start",
        "--",
        *TRAINING,
        "--mode=eval",
    ]


def test_a_config_that_git_does_not_track_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "ROOT", tmp_path)
    (tmp_path / "configs").mkdir()
    for name in ("mine.py", "btadapter.py"):
        (tmp_path / "configs" / name).touch()
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    for config in ("configs/mine.py:variant", "btadapter"):
        with pytest.raises(commands.LaunchError, match="put the file there, commit it"):
            commands.check_sent([f"--config={config}"])
    subprocess.run(["git", "-C", tmp_path, "add", "configs"], check=True)
    for config in ("configs/mine.py:variant", "btadapter"):
        commands.check_sent([f"--config={config}"])


@pytest.mark.parametrize(
    ("arguments", "essential"),
    [
        (("status",), ["describe", "--worker=all", "launch.worker status"]),
        (("status", "--queued"), ["queued-resources describe pod"]),
        (("logs", "--worker=3", "--lines=7"), ["ssh", "--worker=3", f"tail --lines=7 {LOG}"]),
        (("logs", "--follow"), ["--worker=0", f"--follow=name {LOG}"]),
        (("stop",), ["ssh", "--worker=all", "launch.worker stop"]),
        (("delete",), ["tpu-vm delete pod"]),
        (("delete", "--queued"), ["queued-resources delete pod", "--force"]),
        (
            ("fetch", "--workdir=gs://b/x", "out"),
            ["mkdir -p out", "storage rsync gs://b/x out", f"pod:{LOG} out/log-worker-0.txt"],
        ),
        (("fetch", "--workdir=/mnt/x", "out"), ["scp pod:/mnt/x/* out --worker=0 --recurse"]),
    ],
)
def test_other_subcommands(monkeypatch, capsys, arguments, essential):
    verb, *others = arguments
    commands = planned(monkeypatch, capsys, "tpu_vm", verb, *PLACE, *others)
    text = "\n".join(" ".join(command) for command in commands)
    assert [part for part in essential if part not in text] == []
    assert all("--zone=us-west4-a" in c for c in commands if c[:3] == ["gcloud", "compute", "tpus"])


CREATE = ("create", *PLACE, "--topology=v5e:4x4")
RUN = ("run", *PLACE, "--")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("create", *PLACE, "--topology=v5e:5x5"), "no TPU slice 'v5e:5x5'; known: v5e:1x1, "),
        ((*CREATE, "--spot", "--reserved"), "--reserved: not allowed with argument --spot"),
        ((*CREATE, "--valid-for=6h"), "--valid-for: only a request that waits (--queued)"),
        ((*CREATE, "--", "--config=x"), "--config=x: only `run` takes arguments after --"),
        (("create", "My_Pod", "--zone=z", "--topology=v5e:4x4"), "'My_Pod': a name has at most"),
        (("status", "pod"), "the following arguments are required: --zone"),
        (RUN, "--config and --workdir: missing; after -- come the arguments of"),
        ((*RUN, TRAINING[0]), "--workdir: missing"),
        ((*RUN, TRAINING[0], "--workdir=runs/x"), "--workdir=runs/x: must be gs://BUCKET/PATH"),
        ((*RUN, "--config=configs/none.py", TRAINING[1]), "unknown config 'configs/none.py'"),
        ((*RUN, "--config=btadaptr", TRAINING[1]), "unknown config 'btadaptr'"),
        ((*RUN, "--config=configs/btadapter.py:l14", TRAINING[1]), "there is no variant 'l14'"),
        ((*RUN, *TRAINING, "--config.model.frame=2"), "did you mean 'model.frames'"),
        ((*RUN, f"--config={ROOT}/configs/clip.py:b16", TRAINING[1]), "name it from there"),
        (("run", *PLACE, "--config=x", "--", *TRAINING), "unrecognized arguments: --config=x"),
        (("fetch", *PLACE, "--workdir=runs/x", "out"), "--workdir=runs/x: must be gs://"),
    ],
)
def test_mistakes_end_in_a_sentence(monkeypatch, capsys, arguments, message):
    assert message in complaint(monkeypatch, capsys, "tpu_vm", *arguments)


# Stand-in for gcloud: `ssh` and `scp` reach hosts 0 and 1, which are folders beside it.
GCLOUD = """\
#!{python}
import glob, os, pathlib, shutil, subprocess, sys
here = pathlib.Path(__file__).parent
verb, *words = sys.argv[4:]
flags = dict(word.split("=", 1) for word in words if "=" in word)
names = [word for word in words if not word.startswith("--")]
workers = "01" if flags.get("--worker") == "all" else flags.get("--worker", "")
if verb == "describe":
    print("READY")
for worker in workers:
    home = here / f"host{{worker}}"
    if verb == "ssh":
        command = ["bash", "-c", flags["--command"]]
        done = subprocess.run(command, cwd=home, env=os.environ | {{"HOME": str(home)}})
        if done.returncode:
            sys.exit(done.returncode)
        continue
    *sources, target = names
    for source in sources:
        source = str(home / source.partition(":")[2]) if ":" in source else source
        for file in glob.glob(source):
            shutil.copy(file, home if target.endswith(":") else target)
"""
# Stand-in for a host's python3: logs what to install, and the environment is the test's own.
PYTHON3 = """\
#!/bin/sh
echo "$*" >> "$HOME/installed"
if [ "$3" = venv ]; then
  mkdir -p vlt-venv/bin
  printf '#!/bin/sh\nexec {python} "$@"\n' > vlt-venv/bin/python
  chmod +x vlt-venv/bin/python
fi
"""
# Stand-in for vlt.main: trains until SIGTERM, then saves and exits as vlt.main does.
TRAINER = """\
import os, pathlib, signal, sys, time
folder = next(pathlib.Path(a.split("=", 1)[1]) for a in sys.argv if a.startswith("--workdir="))
host = pathlib.Path(os.environ["HOME"]).name
def save(*_):
    time.sleep(0.3)
    (folder / f"saved-by-{host}").touch()
    print("stopped at step 7")
    sys.exit()
signal.signal(signal.SIGTERM, save)
print("trains with", sys.argv[1:], flush=True)
folder.mkdir(parents=True, exist_ok=True)
(folder / f"begun-by-{host}").touch()
time.sleep(60)
"""


@pytest.fixture
def hosts(tmp_path, monkeypatch) -> pathlib.Path:
    """A folder with two bare hosts, a gcloud to reach them and a repository to send to them."""
    for worker in "01":
        (tmp_path / f"host{worker}").mkdir()
    program(tmp_path / "bin", "gcsfuse", "#!/bin/sh\n")
    program(tmp_path / "bin", "python3", PYTHON3.format(python=sys.executable))
    program(tmp_path, "gcloud", GCLOUD.format(python=sys.executable))
    monkeypatch.setenv("PATH", f"{tmp_path}:{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.delenv("PYTHONPATH", raising=False)

    repository = tmp_path / "repository"
    for package in ("configs", "launch", "vlt"):
        without = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, repository / package, ignore=without)
    (repository / "vlt/main.py").write_text(TRAINER)
    (repository / ".gitignore").write_text("__pycache__/\nbuild/\n")
    git = ("git", "-C", str(repository), "-c", "user.name=test", "-c", "user.email=test@test")
    for words in (("init", "--quiet"), ("add", "."), ("commit", "--quiet", "--message=all")):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr(commands, "ROOT", repository)
    return tmp_path


@pytest.mark.slow
def test_a_run_on_two_hosts_from_setup_to_fetch(hosts, monkeypatch, capfd):
    def tpu_vm(verb: str, *arguments: str) -> str:
        launch(monkeypatch, "tpu_vm", verb, *PLACE, *arguments)
        return capfd.readouterr().out

    def refused(verb: str, *arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            tpu_vm(verb, *arguments)
        assert ended.value.code == 1
        return capfd.readouterr().err

    def seen(pattern: str) -> int:
        return len(list(hosts.glob(pattern)))

    tpu_vm("setup")
    installed = [(hosts / f"host{worker}/installed").read_text() for worker in "01"]
    assert all("--python=3.11 vlt-venv" in text and "./vlt[tpu]" in text for text in installed)
    assert tpu_vm("status").count("nothing was started here") == 2

    training = (TRAINING[0], f"--workdir={hosts}/run", "--config.compare=()")
    assert tpu_vm("run", "--", *training).count("running --config=") == 2
    wait_for(lambda: seen("run/begun-by-host*") == 2)
    assert tpu_vm("status").count("running --config=") == 2
    assert f"trains with {list(training)}" in tpu_vm("logs")
    assert "a run is under way: running --config=" in refused("run", "--", *training)
    assert "a run is under way; stop it first" in refused("setup")

    assert tpu_vm("stop").count("stopped at 2") == 2
    assert seen("run/saved-by-host*") == 2
    assert tpu_vm("status").count("stopped at 2") == 2
    tpu_vm("fetch", f"--workdir={hosts}/run", f"{hosts}/out")
    assert seen("out/*-by-host*") == 4
    assert "stopped at step 7" in (hosts / "out/log-worker-0.txt").read_text()

    (hosts / "repository/vlt/main.py").write_text("not committed")
    assert "changes that are not committed would not reach the hosts" in refused("setup")


def test_what_a_command_fails_with_is_told(monkeypatch, capsys, tmp_path):
    program(tmp_path, "gcloud", "#!/bin/sh\nexit 3\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    for gcloud, message in (
        ("there", "`gcloud compute tpus tpu-vm delete ...` ended with status 3"),
        ("gone", "gcloud is not installed here, or not in PATH"),
    ):
        if gcloud == "gone":
            (tmp_path / "gcloud").unlink()
        with pytest.raises(SystemExit) as ended:
            launch(monkeypatch, "tpu_vm", "delete", *PLACE)
        assert ended.value.code == 1
        captured = capsys.readouterr()
        assert message in captured.err and not captured.out


def test_a_host_prints_its_setup_alone(tmp_path):
    """Without gcsfuse and sudo, which a real setup would need."""
    for name in ("bash", "hostname", "rm"):
        (tmp_path / name).symlink_to(shutil.which(name))
    program(tmp_path, "lsb_release", "#!/bin/sh\necho jammy\n")
    (tmp_path / "vlt").mkdir()
    done = subprocess.run(
        ["bash", str(ROOT / "launch/setup_worker.sh"), "--dry-run"],
        env={"HOME": str(tmp_path), "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for essential in ("gcsfuse-jammy main", "install --quiet --yes gcsfuse", "uv pip install"):
        assert essential in done.stdout
    assert (tmp_path / "vlt").exists()
