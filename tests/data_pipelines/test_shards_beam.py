"""The shards command on Apache Beam's direct runner."""

import os
import signal
import subprocess
import sys
import time

import pytest
from shard_folders import make, prepare, write_videos

from data_pipelines.shards.encode import Frames

filesystem = pytest.importorskip("apache_beam.io.filesystem", reason="needs the extra `beam`")
local = pytest.importorskip("apache_beam.io.localfilesystem", reason="needs the extra `beam`")

FORM = Frames(short_side=16, frames=4)
OPTIONS = ("--form=frames", "--short-side=16", "--frames=4", "--per-shard=2")


def command(manifest, out, *options):
    return [
        sys.executable, "-m", "data_pipelines.shards", f"--manifest={manifest}", f"--out={out}",
        *OPTIONS, *options,
    ]  # fmt: skip


def contents(out):
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def run(*arguments):
    return subprocess.run(command(*arguments), capture_output=True, text=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A manifest and the folder made from it without Beam."""
    root = tmp_path_factory.mktemp("made")
    manifest = write_videos(root)
    return manifest, make(manifest, root / "out", FORM).parent


def test_killed_and_run_again_it_gives_the_same_bytes(tmp_path):
    manifest = write_videos(tmp_path, lengths=range(1, 13))
    whole = make(manifest, tmp_path / "whole", FORM, per_shard=1).parent
    out = tmp_path / "out"
    started = subprocess.Popen(command(manifest, out, "--per-shard=1"), start_new_session=True)
    reports = out / "unfinished"
    deadline = time.monotonic() + 120
    while not list(reports.glob("*.array_record.json")) and time.monotonic() < deadline:
        time.sleep(0.002)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    assert not (out / "shards.json").exists()
    shards = [out / report.name.removesuffix(".json") for report in reports.glob("*_record.json")]
    done = {shard: shard.stat().st_mtime_ns for shard in shards}
    assert done
    finished = run(manifest, out, "--per-shard=1")
    assert finished.returncode == 0, finished.stderr
    assert "12 videos, 12 rows, 12 shards" in finished.stdout
    assert contents(out) == contents(whole)
    assert {shard: shard.stat().st_mtime_ns for shard in done} == done


def test_several_workers_give_the_same_bytes(made, tmp_path):
    manifest, whole = made
    workers = ("--direct_num_workers=2", "--direct_running_mode=multi_threading")
    finished = run(manifest, tmp_path / "out", *workers)
    assert finished.returncode == 0, finished.stderr
    assert contents(tmp_path / "out") == contents(whole)


def test_broken_files_decide_the_status(made, tmp_path):
    manifest = write_videos(tmp_path)
    (tmp_path / "videos" / "0.mov").unlink()
    finished = run(manifest, tmp_path / "out")
    assert finished.returncode == 1, finished.stderr
    assert "1 of 5 videos are broken and left out, with 1 rows" in finished.stdout
    assert "videos/0.mov: CannotOpen: cannot be opened: no such file" in finished.stdout
    assert run(manifest, tmp_path / "out", "--max-broken=0.2").returncode == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--num-worker=3",), "--num_worker (did you mean --num_workers?)"),
        (("--short-sid=3",), "--short_sid (did you mean --short_side?)"),
        (("stray",), "nor of Beam: stray"),
        (("--runner=Foo",), "Unexpected pipeline runner: Foo"),
    ],
)
def test_an_unknown_option_is_named(made, tmp_path, options, said):
    finished = run(made[0], tmp_path / "out", *options)
    assert finished.returncode == 2 and said in finished.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_of_other_options_is_refused(made, tmp_path):
    prepare(made[0], tmp_path / "out", Frames(short_side=16, frames=5))
    finished = run(made[0], tmp_path / "out")
    assert finished.returncode == 2
    assert "options.frames: 5 there, 4 here" in finished.stderr


class Away(local.LocalFileSystem):
    """Another file system: away://PATH is a local path. As in a bucket, folders need no making."""

    @classmethod
    def scheme(cls):
        return "away"

    def create(self, path, *options, **named):
        os.makedirs(os.path.dirname(_here(path)), exist_ok=True)
        return super().create(_here(path), *options, **named)

    def open(self, path, *options, **named):
        return super().open(_here(path), *options, **named)

    def exists(self, path):
        return super().exists(_here(path))

    def rename(self, sources, targets):
        assert not any(map(self.exists, targets))  # a bucket may refuse these
        super().rename([*map(_here, sources)], [*map(_here, targets)])

    def delete(self, paths):
        for path in paths:
            os.remove(_here(path))

    def match(self, patterns, limits=None):
        found = super().match([*map(_here, patterns)], limits)
        return [
            filesystem.MatchResult(
                pattern,
                [
                    filesystem.FileMetadata(
                        f"away:/{m.path}", m.size_in_bytes, m.last_updated_in_seconds
                    )
                    for m in result.metadata_list
                ],
            )
            for pattern, result in zip(patterns, found, strict=True)
        ]


def _here(path):
    return path.removeprefix("away:/")


def test_videos_and_shards_on_another_file_system(made, tmp_path, monkeypatch, capsys):
    from data_pipelines.shards import __main__ as module

    manifest, whole = made
    out, arguments = tmp_path / "out", [f"--videos=away:/{manifest.parent}", *OPTIONS]
    for expected in ("5 videos, 5 rows, 3 shards", "5 videos, 5 rows, 3 shards"):
        argv = ["shards", f"--manifest={manifest}", f"--out=away:/{out}", *arguments]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as ended:
            module.main()
        assert ended.value.code == 0 and expected in capsys.readouterr().out
    (out / "unfinished").rmdir()  # a bucket has no empty folders
    assert sorted(contents(out)) == sorted(contents(whole))
    # The records' `run` is for a plan with another video folder; all else is the same.
    assert [p.stat().st_size for p in out.glob("*.array_record")] == [
        p.stat().st_size for p in whole.glob("*.array_record")
    ]
    assert (out / "manifest.jsonl").read_bytes() == (whole / "manifest.jsonl").read_bytes()
