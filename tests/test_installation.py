"""An installed copy works from any folder, whatever else is called `configs` there, and is never
written to."""

import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest
from helpers import ROOT

BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
PARTS = ("vlt", "launch", "data_pipelines", "configs", "pyproject.toml", "README.md", "LICENSE")
# Read by programs, not by Python.
DATA = (".sh", ".txt", ".json", "Dockerfile")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> pathlib.Path:
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("installation")
    source = folder / "source"
    source.mkdir()
    for name in PARTS:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        options = {"symlinks": True} if (ROOT / name).is_dir() else {}
        copy(ROOT / name, source / name, **options)
    subprocess.run(
        [sys.executable, "-c", BUILD, str(folder)], cwd=source, check=True, capture_output=True
    )
    shutil.rmtree(source)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel) -> pathlib.Path:
    """The contents of the wheel, unpacked."""
    zipfile.ZipFile(wheel).extractall(wheel.parent / "site")
    return wheel.parent / "site"


@pytest.fixture
def elsewhere(tmp_path, installed) -> pathlib.Path:
    """A folder with a foreign package `configs`; another lies beside the installed package."""
    for folder in (tmp_path / "configs", installed / "configs"):
        folder.mkdir(exist_ok=True)
        for name in ("__init__", "common", "btadapter"):
            (folder / f"{name}.py").write_text("raise RuntimeError('not ours')")
    (tmp_path / "configs/btadapter.py").unlink()
    return tmp_path


def run(installed: pathlib.Path, folder: pathlib.Path, *arguments: str) -> str:
    env = os.environ | {"PYTHONPATH": str(installed), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_every_file_is_installed(installed):
    """Except documents."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a checkout")
    files = {name for name in tracked.stdout.split() if name.startswith(PARTS[:3])}
    wanted = {name for name in files if not name.endswith(".md")} - {"vlt/configs"}
    wanted |= {f"vlt/configs/{file.name}" for file in (ROOT / "configs").glob("*.py")}
    assert any(name.endswith(DATA) for name in wanted)
    assert [name for name in sorted(wanted) if not (installed / name).is_file()] == []
    assert not (installed / "tests").exists()


def test_commands_run_from_another_folder(installed, elsewhere):
    before = sorted(installed.rglob("*.py"))
    config = "--config=configs/btadapter.py"
    report = json.loads(run(installed, elsewhere, "vlt", "inspect", "--config=btadapter", "--json"))
    assert report["trainable_params"] == 488_544
    local = ("--processes=2", "--dry-run", "--", config, "--workdir=runs/two")
    assert run(installed, elsewhere, "launch.local", *local).count("vlt.main") == 2
    slurm = ("run", "x", "--nodes=1", "--gpus-per-node=1", "--time=1:00:00", "--dry-run")
    queued = run(installed, elsewhere, "launch.slurm", *slurm, "--", config, "--workdir=runs/two")
    (script,) = (word for word in queued.split() if word.endswith(".sh"))
    assert pathlib.Path(script).is_file()
    run(installed, elsewhere, "data_pipelines.moving_shapes", "--out=shapes", "--count=2")
    assert (elsewhere / "shapes/manifest.jsonl").is_file()
    assert sorted(installed.rglob("*.py")) == before


def test_what_sends_a_commit_says_that_it_needs_a_checkout(installed, elsewhere):
    setup = ("launch.tpu_vm", "setup", "pod", "--zone=us-west4-a")
    with pytest.raises(AssertionError, match="is not a checkout.*clone the repository"):
        run(installed, elsewhere, *setup)


@pytest.fixture(scope="module")
def vlt(wheel) -> pathlib.Path:
    """The command, in an environment of its own with the packages of this one."""
    pytest.importorskip("pip")
    folder = wheel.parent / "environment"
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin/python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", where], capture_output=True, text=True, check=True).stdout
    others = sysconfig.get_path("purelib")
    (pathlib.Path(site.strip()) / "others.pth").write_text(f"{others}\n")
    install = ("install", "--no-deps", "--no-index", "--disable-pip-version-check", str(wheel))
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), *install],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder / "bin/vlt"


def state(folder: pathlib.Path) -> dict[str, tuple[int, int]]:
    """Size and modification time of every file."""
    files = {str(file): file.stat() for file in sorted(folder.rglob("*")) if file.is_file()}
    return {name: (found.st_size, found.st_mtime_ns) for name, found in files.items()}


@pytest.mark.slow
def test_the_command_from_another_folder(vlt, elsewhere):
    """It finds configs by name, keeps caches in the user's folder, and changes nothing that is
    installed."""
    before = state(vlt.parents[1])
    env = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    env |= {"HOME": str(elsewhere / "home"), "PYTHONPATH": "", "JAX_PLATFORMS": "cpu"}
    del env["VLT_CACHE"]

    def call(*arguments: str, status: int = 0) -> str:
        done = subprocess.run(
            [vlt, *arguments], cwd=elsewhere, env=env, capture_output=True, text=True
        )
        assert done.returncode == status, done.stderr[-4000:]
        return done.stdout or done.stderr

    where = ("-c", "import vlt; print(vlt.__file__)")
    found = subprocess.run(
        [vlt.with_name("python"), *where], cwd=elsewhere, env=env, capture_output=True, text=True
    )
    assert found.stdout.startswith(str(vlt.parents[1]))
    assert "error: unknown config 'tempm' (did you mean 'tempme'" in call(
        "train", "--config=tempm", status=2
    )
    report = json.loads(call("inspect", "--config=btadapter:webvid_l14", "--json"))
    assert report["trainable_params"] == 72_242_432
    assert "vlt checkpoints clip_b32 says where it is published" in call(
        "eval", "--config=clip:b32", status=1
    )
    assert call("checkpoints", "clip_b32").splitlines()[1].split()[-1] == "no"
    short = ["--config.train.steps=2", "--config.data.train.batch_size=4", "--config.evals={}"]
    short.append("--config.data.train.manifest=moving_shapes:clips:train:16")
    call("train", "--config=btadapter", "--config.compare=()", *short)
    assert (elsewhere / "runs/btadapter/results.md").is_file()
    call("export", "--workdir=runs/btadapter", "exported", "--merge")
    assert (elsewhere / "exported/config.json").is_file()
    cache = elsewhere / "home/.cache/vlt"
    assert {path.name for path in cache.iterdir()} >= {"programs"}
    assert any(cache.glob("moving_shapes-*/*/manifest.jsonl"))
    assert state(vlt.parents[1]) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        (), ("--help",), ("--version",), ("trian",), ("train", "--help"), ("convert",),
        ("train", "--config=nope"), ("train", "--confg=btadapter"), ("caption", "--help"),
    ],
)  # fmt: skip
def test_help_and_mistakes_are_answered_at_once(vlt, tmp_path, arguments):
    """In 0.3 s of CPU time, which other programs do not lengthen much."""
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([vlt, *arguments], cwd=tmp_path, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert min(times) < 0.3


@pytest.mark.slow
def test_a_run_from_another_folder(installed, elsewhere):
    """With decoder processes, and with two processes in one run."""
    short = ("--config.train.steps=2", "--config.data.train.batch_size=4", "--config.evals={}")
    job = ("--config=configs/btadapter.py", "--config.compare=()", *short)
    run(installed, elsewhere, "vlt.main", *job)
    assert (elsewhere / "runs/btadapter/results.md").is_file()
    run(installed, elsewhere, "launch.local", "--processes=2", "--", *job, "--workdir=runs/two")
    assert (elsewhere / "runs/two/results.md").is_file()
    assert (elsewhere / "runs/two/logs/process-1.txt").is_file()
    assert not (installed / "runs").exists()
