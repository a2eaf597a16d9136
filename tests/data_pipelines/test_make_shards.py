"""Making shards: frames chosen, identical bytes, broken files, other runs, killed runs."""

import hashlib
import json
import sys
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shard_folders import make, prepare, read_lines, write_rows, write_videos

from data_pipelines import shards
from data_pipelines.shards import __main__ as command
from data_pipelines.shards import folder
from data_pipelines.shards.encode import Clips, Frames, check_form, kept_frames
from data_pipelines.shards.write import WORKER, write_shard
from vlt.data.manifests.manifest import ManifestError
from vlt.data.video.clips import DecoderPool

FORMS = {"clips": Clips(short_side=16, fps=5), "frames": Frames(short_side=16, frames=4)}


def contents(out):
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """{form: (manifest, folder)}; no test writes into them."""
    root = tmp_path_factory.mktemp("made")
    manifest = write_videos(root)
    for name, form in FORMS.items():
        make(manifest, root / name, form)
    return {name: (manifest, root / name) for name in FORMS}


class FakeVideo:
    """Frames at the given times, without pictures."""

    def __init__(self, times):
        self.times = np.array(times, np.float64)
        self.fps = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 25.0

    def __len__(self):
        return len(self.times)

    def timestamps(self):
        return self.times.copy()

    def info(self):
        return type("Info", (), {"duration": self.times[-1] - self.times[0] + 1 / self.fps})


@given(
    steps=st.lists(st.floats(0.01, 0.5), min_size=1, max_size=60),
    fps=st.sampled_from([0.0, 1.0, 3.0, 7.5, 29.97, 60.0]),
    start=st.floats(0, 3),
)
def test_kept_frames_are_those_shown_at_their_times(steps, fps, start):
    times = start + np.cumsum([0, *steps])
    video = FakeVideo(times)
    indices, shown, rate = kept_frames(video, Clips(fps=fps))
    assert len(indices) == len(shown) and (np.diff(indices) >= 0).all()
    assert indices[0] >= 0 and indices[-1] < len(video)
    if not fps or fps >= video.fps:
        assert indices.tolist() == list(range(len(video))) and rate == video.fps
        return
    assert rate == fps and len(indices) == max(1, round(video.info().duration * fps))
    for index, time in zip(indices, shown, strict=True):
        assert times[index] - start <= float(time) + 2e-6
        if index + 1 < len(video):
            assert times[index + 1] - start > float(time)


@pytest.mark.parametrize("count", [1, 3, 4, 5, 50])
def test_a_number_of_frames_is_spread_evenly_and_none_repeats(count):
    video = FakeVideo(np.arange(count) / 10)
    indices, _, rate = kept_frames(video, Frames(frames=4))
    kept = min(4, count)
    assert indices.tolist() == [(2 * i + 1) * count // (2 * kept) for i in range(kept)]
    assert len(set(indices.tolist())) == kept and rate == pytest.approx(video.fps * kept / count)


def test_thinned_at_exact_divisors():
    indices, times, _ = kept_frames(FakeVideo(np.arange(23) / 10), Frames(fps=5))
    assert indices.tolist() == list(range(0, 23, 2))[: len(indices)] and len(indices) in (11, 12)
    assert [float(t) for t in times] == pytest.approx([i / 5 for i in range(len(indices))])


@pytest.mark.parametrize("name", FORMS)
def test_a_run_that_was_killed_goes_on_to_the_same_bytes(tmp_path, made, name, monkeypatch):
    manifest, whole = made[name]
    out = tmp_path / "out"
    plan, rows, shards = prepare(manifest, out, FORMS[name])
    first, second, *rest = shards
    with DecoderPool(1, 60, WORKER) as pool:
        write_shard(str(out), plan, first, shards[first], pool)
        # As if killed: one shard without its report, and half of another under its temporary name.
        (out / second).write_bytes(b"half of a shard")
        (out / f"{rest[0]}.0123.partial").write_bytes(b"half")
        done = (out / first).stat()
        again = prepare(manifest, out, FORMS[name])
        assert again[0] == plan
        with pytest.raises(folder.FolderError, match=f"{second} is not done"):
            folder.finish(str(out), plan, rows)
        assert not (out / "shards.json").exists()
        for shard, videos in shards.items():
            write_shard(str(out), plan, shard, videos, pool)
    folder.finish(str(out), plan, rows)
    folder.tidy(str(out))
    assert contents(out) == contents(whole)
    kept = (out / first).stat()
    assert (kept.st_ino, kept.st_mtime_ns) == (done.st_ino, done.st_mtime_ns)


def test_shards_hold_fixed_rows(made):
    for _, out in made.values():
        index = json.loads((out / "shards.json").read_text())
        assert [shard["records"] for shard in index["shards"].values()] == [2, 2, 1]
        rows = read_lines(out / "manifest.jsonl")
        assert [row["video"].partition("#")[::2] for row in rows] == [
            (name, str(position))
            for name, shard in index["shards"].items()
            for position in range(shard["records"])
        ]
        assert [row["source"] for row in rows] == [f"videos/{n}.mov" for n in range(5)]
        assert [(row["caption"], row["n"]) for row in rows] == [
            ([f"a {n}", "b"], n) for n in range(5)
        ]


def test_rows_that_share_a_video_share_a_record(tmp_path):
    manifest = write_videos(tmp_path, lengths=(3, 4))
    rows = read_lines(manifest)
    shared = [row | {"id": f"{i}"} for i, row in enumerate([rows[0], rows[1], rows[0]])]
    out = make(write_rows(manifest, shared), tmp_path / "out", Frames())
    found = read_lines(out)
    assert found[0]["video"] == found[2]["video"] != found[1]["video"]
    assert [row["id"] for row in found] == ["0", "1", "2"]
    assert json.loads((tmp_path / "out" / "shards.json").read_text())["videos"] == 2


def test_a_source_whose_sum_is_another_is_broken(tmp_path):
    manifest = write_videos(tmp_path, lengths=(3, 4))
    rows = read_lines(manifest)
    for row in rows:
        row["sha256"] = hashlib.sha256((tmp_path / row["video"]).read_bytes()).hexdigest()
    rows.append({key: value for key, value in rows[1].items() if key != "sha256"})
    first = rows[0]["sha256"]
    rows[1]["sha256"] = "0" + rows[1]["sha256"][1:] + "0"
    (row,) = read_lines(make(write_rows(manifest, rows), tmp_path / "out", Frames()))
    assert "sha256" not in row and row["source_sha256"] == first
    (broken,) = read_lines(tmp_path / "out" / "broken.jsonl")
    assert broken["error"] == "ChangedFile" and rows[1]["sha256"] in broken["reason"]


def test_columns_that_the_shards_manifest_fills_are_refused(tmp_path):
    manifest = write_videos(tmp_path, lengths=(3,))
    write_rows(manifest, [row | {"source": "me"} for row in read_lines(manifest)])
    with pytest.raises(ManifestError, match="line 1: has a column `source`, which .*: rename it"):
        prepare(manifest, tmp_path / "out", Frames())


def test_a_place_that_cannot_be_written_is_named(made, tmp_path, monkeypatch, capsys):
    stand_in = types.ModuleType("data_pipelines.shards.pipeline")
    stand_in.new_pipeline = lambda flags, own: None
    monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    monkeypatch.setattr(shards, "pipeline", stand_in, raising=False)
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", "/proc/x"):
        arguments = (f"--manifest={made['frames'][0]}", f"--out={out}", "--form=frames")
        status, printed = run_command(monkeypatch, capsys, *arguments)
        assert status == 2 and f"error: {out} cannot be written: {out}" in printed.err


def break_videos(root):
    """Of five videos, truncates one, replaces one by text, and deletes one."""
    path = root / "videos" / "0.mov"
    path.write_bytes(path.read_bytes()[:-400])
    (root / "videos" / "2.mov").write_text("no video at all\n" * 40)
    (root / "videos" / "3.mov").unlink()


def test_broken_files_are_reported_and_left_out(tmp_path, capsys):
    manifest = write_videos(tmp_path)
    break_videos(tmp_path)
    out = tmp_path / "out"
    make(manifest, out, Frames(short_side=16))
    broken = read_lines(out / "broken.jsonl")
    assert [row["video"] for row in broken] == [f"videos/{n}.mov" for n in (0, 2, 3)]
    assert all(row["error"] and row["reason"] for row in broken)
    assert broken[2]["reason"] == "cannot be opened: no such file"
    rows = read_lines(out / "manifest.jsonl")
    assert [row["n"] for row in rows] == [1, 4]
    assert [row["video"].rpartition("#")[2] for row in rows] == ["0", "0"]
    assert command._summary(str(out), max_broken=0.0) == 1
    assert command._summary(str(out), max_broken=0.6) == 0
    printed = capsys.readouterr().out
    assert "3 of 5 videos are broken and left out" in printed and "videos/3.mov" in printed


def test_a_run_without_a_readable_video_makes_no_folder_of_shards(tmp_path):
    manifest = write_videos(tmp_path, lengths=(3, 3))
    for path in (tmp_path / "videos").iterdir():
        path.unlink()
    with pytest.raises(folder.FolderError, match="not one of 2 videos could be read.*no such file"):
        make(manifest, tmp_path / "out", Frames())
    assert not (tmp_path / "out" / "shards.json").exists()


def refused(made, form=FORMS["frames"], manifest=None, per_shard=2, out=None):
    known, whole = made["frames"]
    with pytest.raises(folder.FolderError) as error:
        prepare(manifest or known, out or whole, form, per_shard)
    return str(error.value)


def test_a_folder_of_other_options_is_refused(made):
    message = refused(made, Frames(short_side=16, frames=5))
    assert "options.frames: 4 there, 5 here" in message and "short_side" not in message
    assert "form: 'frames' there, 'clips' here" in refused(made, FORMS["clips"])
    assert "per_shard: 2 there, 3 here" in refused(made, per_shard=3)


def test_a_folder_of_another_manifest_is_refused(made, tmp_path):
    rows = read_lines(made["frames"][0])
    other = write_rows(tmp_path / "train.jsonl", rows[:-1])
    assert "manifest_sha256: " in refused(made, manifest=other)


def test_an_unfinished_folder_of_another_run_is_refused(made, tmp_path):
    prepare(made["frames"][0], tmp_path / "out", Frames(quality=50))
    assert "options.quality: 50 there, 90 here" in refused(made, out=tmp_path / "out")


def test_a_folder_of_something_else_is_refused(made, tmp_path):
    (tmp_path / "thesis.tex").touch()
    assert "holds thesis.tex and no run of this command" in refused(made, out=tmp_path)


def test_a_whole_folder_that_lost_a_shard_is_named(made, tmp_path):
    manifest, whole = made["frames"]
    out = tmp_path / "out"
    out.mkdir()
    for name, content in contents(whole).items():
        (out / name).write_bytes(content)
    assert not folder.start(str(out), prepare(manifest, whole, FORMS["frames"])[0], [])
    (out / "frames-00001-of-00003.array_record").unlink()
    assert "has lost frames-00001-of-00003" in refused(made, out=out)


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (Clips(crf=52), "--crf must be between 0 and 51, got 52"),
        (Clips(short_side=0), "--short-side must be >= 16, got 0"),
        (Frames(quality=0), "--quality must be between 1 and 95, got 0"),
        (Frames(fps=-1.0), "--fps must be >= 0, got -1.0"),
        (Frames(fps=2.0, frames=8), "give one of them"),
    ],
)
def test_values_out_of_range_are_named(form, said):
    with pytest.raises(ValueError, match=said):
        check_form(form)


def run_command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["shards", *arguments])
    with pytest.raises(SystemExit) as ended:
        command.main()
    return ended.value.code, capsys.readouterr()


def test_an_option_of_the_other_form_is_named(monkeypatch, capsys, tmp_path):
    arguments = ("--manifest=m.jsonl", f"--out={tmp_path}", "--form=frames", "--crf=3")
    status, printed = run_command(monkeypatch, capsys, *arguments)
    assert status == 2 and "--crf: no option of --form=frames" in printed.err


def test_without_beam_the_extra_is_named(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    monkeypatch.delitem(sys.modules, "data_pipelines.shards.pipeline", raising=False)
    arguments = ("--manifest=m.jsonl", f"--out={tmp_path / 'out'}", "--form=frames")
    status, printed = run_command(monkeypatch, capsys, *arguments)
    assert status == 2 and "pip install 'vlt[beam]'" in printed.err
    assert not (tmp_path / "out").exists()
