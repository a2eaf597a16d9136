"""An installed copy does all from any folder, whatever else is called `configs` there."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest
from helpers import ROOT

BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
PARTS = ("vlt", "launch", "data_pipelines", "configs", "pyproject.toml", "README.md", "LICENSE")
# Read by programs, not by Python.
DATA = (".sh", ".txt", ".json", "Dockerfile")


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> pathlib.Path:
    """What a wheel holds, unpacked."""
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
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    shutil.rmtree(source)
    return folder / "site"


@pytest.fixture
def elsewhere(tmp_path, installed) -> pathlib.Path:
    """A folder with a foreign package `configs`, of which there is one beside the package, too."""
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
    """But documents."""
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
    report = json.loads(run(installed, elsewhere, "vlt.inspect", config, "--json"))
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


@pytest.mark.slow
def test_a_run_from_another_folder(installed, elsewhere):
    """With decoder processes, and two processes of one run."""
    short = ("--config.train.steps=2", "--config.data.train.batch_size=4", "--config.evals={}")
    job = ("--config=configs/btadapter.py", "--config.compare=()", *short)
    run(installed, elsewhere, "vlt.main", *job)
    assert (elsewhere / "runs/btadapter/results.md").is_file()
    run(installed, elsewhere, "launch.local", "--processes=2", "--", *job, "--workdir=runs/two")
    assert (elsewhere / "runs/two/results.md").is_file()
    assert (elsewhere / "runs/two/logs/process-1.txt").is_file()
    assert not (installed / "runs").exists()
