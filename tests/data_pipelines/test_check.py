"""Checking a manifest's videos: what is found, what is written, and the exit status."""

import csv
import hashlib
import json
import subprocess
import sys

import pyarrow
import pytest
from helpers import ROOT, environment
from pyarrow import parquet
from video_files import draw, write, write_tricky

from data_pipelines.check import __main__ as command
from data_pipelines.check.__main__ import WORKER, check, table
from data_pipelines.check.inspection import Request
from data_pipelines.check.sums import check_out, write_sums
from vlt.data.manifests.manifest import ManifestError, read_manifest
from vlt.data.video.clips import DecoderPool

SLEEP = "lambda request: time.sleep(60)"
SLEEPER = f"import time; from vlt.data.video.worker import main; main({SLEEP})"


def sum_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A folder with one video of each status, and the manifest."""
    root = tmp_path_factory.mktemp("videos")
    write_tricky(root, "b_frames.avi")
    write(root / "sound.mp4", draw(20))
    content = (root / "sound.mp4").read_bytes()
    (root / "short.mp4").write_bytes(
        write(root / "x.mp4", draw(60), container_options={"movflags": "faststart"}).read_bytes()[
            :-3000
        ]
    )
    (root / "broken.mp4").write_text("no video")
    # Without its table of keyframes every frame of an MP4 file counts as one.
    tricky = write(root / "y.mp4", draw(), "mpeg4", {"g": "12"}).read_bytes()
    assert tricky.count(b"stss") == 1
    (root / "wrong.mp4").write_bytes(tricky.replace(b"stss", b"free"))
    (root / "changed.mp4").write_bytes(content)
    names = ("sound.mp4", "b_frames.avi", "none.mp4", "short.mp4", "broken.mp4", "wrong.mp4")
    rows = [{"video": name, "caption": "é", "n": 0.5} for name in (*names, "sound.mp4")]
    rows.append({"video": "changed.mp4", "caption": "é", "n": 0.5, "sha256": "0" * 64})
    (root / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def test_every_kind_of_damage_is_told(videos):
    done = subprocess.run(
        [sys.executable, "-m", "data_pipelines.check", "m.jsonl", "--sha256=sums.jsonl",
         "--workers=1"],
        cwd=videos, env=environment(1) | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    reports = [json.loads(line) for line in (videos / "m.check.jsonl").read_text().splitlines()]
    found = {report["video"]: report for report in reports}
    assert {name: report["status"] for name, report in found.items()} == {
        "sound.mp4": "sound",
        "b_frames.avi": "sound",
        "none.mp4": "missing",
        "short.mp4": "short",
        "broken.mp4": "broken",
        "wrong.mp4": "wrong seek",
        "changed.mp4": "changed",
    }
    sound, in_order = found["sound.mp4"], found["b_frames.avi"]
    assert (sound["rows"], sound["frames"], sound["height"], sound["width"]) == (2, 20, 64, 96)
    assert sound["in_order"] == "" and "B-frames" in in_order["in_order"]
    assert found["short.mp4"]["error"] == "Truncated"
    assert "another one when it is jumped to" in found["wrong.mp4"]["reason"]
    assert "0" * 64 in found["changed.mp4"]["reason"]
    assert "7 of 7 videos, 5 not sound" in done.stderr
    assert ["sound", "2", "3"] in [line.split() for line in done.stdout.splitlines()]
    rows = [json.loads(line) for line in (videos / "sums.jsonl").read_text().splitlines()]
    before = [json.loads(line) for line in (videos / "m.jsonl").read_text().splitlines()]
    good = {name: sum_of(videos / name) for name in ("sound.mp4", "b_frames.avi")}
    for row, old in zip(rows, before, strict=True):
        assert row == old | ({"sha256": good[row["video"]]} if row["video"] in good else {})
    assert read_manifest(videos / "sums.jsonl", check_videos=False)[0].sha256 == good["sound.mp4"]


def test_what_hangs_is_killed_and_told(videos):
    request = Request(str(videos / "sound.mp4"))
    with DecoderPool(1, timeout=0.5, command=(sys.executable, "-c", SLEEPER)) as pool:
        (report,) = check({request: 1}, pool)
    assert report["status"] == "hung" and "0.5 s" in report["reason"]
    assert any(line.split() == ["hung", "1", "1"] for line in table([report]))


def test_sound_videos_end_with_status_0(videos, monkeypatch, capsys):
    manifest = videos / "good.jsonl"
    row = {"video": "sound.mp4", "label": "a", "sha256": sum_of(videos / "sound.mp4")}
    manifest.write_text(json.dumps(row))
    monkeypatch.setattr(sys, "argv", ["check", str(manifest), "--workers=1"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 0
    assert "good.check.jsonl" in capsys.readouterr().out


def test_records_of_shards_are_checked(tmp_path, videos):
    from shard_folders import make, write_videos

    from data_pipelines.shards.encode import Frames

    manifest = make(write_videos(tmp_path, lengths=(3, 4)), tmp_path / "out", Frames(16))
    requests = {Request(record.video): 1 for record in read_manifest(manifest)}
    with DecoderPool(1, command=WORKER) as pool:
        assert [(r["status"], r["frames"]) for r in check(requests, pool)] == [
            ("sound", 3),
            ("sound", 4),
        ]


def test_csv_keeps_every_field(tmp_path):
    path, out = tmp_path / "a.csv", tmp_path / "b.csv"
    lines = [["video", "caption", "x"], ["a.mp4", 'say "a", b', ""], ["b.mp4", "two\nlines", "1e3"]]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    write_sums(path, out, ["ab", ""])
    with out.open(newline="") as file:
        assert list(csv.reader(file)) == [
            [*lines[0], "sha256"], [*lines[1], "ab"], [*lines[2], ""]
        ]  # fmt: skip
    assert out.read_bytes().count(b"\r\n") == 3
    write_sums(out, out, ["", "cd"])
    assert [r.sha256 for r in read_manifest(out, check_videos=False)] == ["ab", "cd"]


def test_parquet_keeps_columns_and_types(tmp_path):
    path, out = tmp_path / "a.parquet", tmp_path / "b.parquet"
    columns = {"video": ["a.mp4", "b.mp4"], "caption": [["x", "y"], ["z"]]}
    held = pyarrow.table(columns | {"n": pyarrow.array([1, None], pyarrow.int16())})
    parquet.write_table(held, path)
    write_sums(path, out, ["ab", ""])
    written = parquet.read_table(out)
    assert written.drop_columns("sha256").equals(held)
    assert written.column("sha256").to_pylist() == ["ab", None]
    write_sums(out, out, ["", "cd"])
    assert [r.sha256 for r in read_manifest(out, check_videos=False)] == ["ab", "cd"]


def test_where_the_manifest_with_sums_cannot_lie(tmp_path):
    with pytest.raises(ManifestError, match=r"b.csv: must end in .jsonl, as a.jsonl does"):
        check_out(tmp_path / "a.jsonl", tmp_path / "b.csv")
    with pytest.raises(ManifestError, match="must be in the folder of"):
        check_out(tmp_path / "a.jsonl", tmp_path / "x" / "b.jsonl")


def test_reports_and_sums_written_over_each_other_or_the_manifest(tmp_path, monkeypatch, capsys):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"video": "a.mp4", "caption": "x"}))
    both = [f"--sha256={tmp_path}/b.jsonl", f"--report={tmp_path}/b.jsonl"]
    for options in ([f"--report={tmp_path}/x/../a.jsonl"], both):
        monkeypatch.setattr(sys, "argv", ["check", str(path), *options])
        with pytest.raises(SystemExit, match="2"):
            command.main()
        assert "jsonl: would be written over" in capsys.readouterr().err
    assert [each.name for each in tmp_path.iterdir()] == ["a.jsonl"]


def test_two_sums_of_a_video_are_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"video": v, "caption": "x", "sha256": s} for v, s in (("a", "ab"), ("./a", "AB"))]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(read_manifest(path, check_videos=False)) == 2
    path.write_text(path.read_text() + json.dumps(rows[0] | {"sha256": "cd"}))
    with pytest.raises(ManifestError, match="line 3: `sha256` of a video that has another one in"):
        read_manifest(path, check_videos=False)


def test_a_sum_of_a_record_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    row = {"video": "a.array_record#0", "caption": "x", "sha256": "ab"}
    path.write_text(json.dumps(row))
    with pytest.raises(ManifestError, match="line 1: `sha256` is of files"):
        read_manifest(path, check_videos=False)
