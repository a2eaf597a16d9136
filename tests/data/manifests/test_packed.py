"""Packed manifests give the same batches in the same order as unpacked ones, and resume alike."""

import json
import subprocess
import sys

import numpy as np
import pytest

from data_pipelines import pack
from vlt.data.manifests.manifest import ManifestError, read_manifest
from vlt.data.manifests.packed import PackedRecords, number_of, packed_row
from vlt.data.pipeline import VideoData
from vlt.data.video.errors import NoText

SECTION = {
    "batch_size": 3, "sampler": {"name": "linspace", "frames": 2}, "transform": {},
    "captions": ("caption", "other"), "clean": "", "max_words": 0, "prefix": "a ", "group": "",
    "cache": False, "on_error": "skip", "max_error_rate": 0.5, "allow_truncated": False,
    "backend": "pyav",
}  # fmt: skip


class Frames:
    """Frames that depend on the video's name alone."""

    workers = 1

    def read(self, request):
        return np.full((2, 4, 4, 3), len(request.path), np.uint8)


class Words:
    """Returns texts unchanged."""

    def entries(self, texts, rows):
        return {name: np.array(found, object) for name, found in texts.items()}


@pytest.fixture
def manifest(tmp_path):
    file = tmp_path / "rows.jsonl"
    rows = [
        {"video": f"{i % 7}.mp4", "caption": [f"{i}", f"{i}!"], "other": f"o{i}"} for i in range(20)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def batches(manifest, workdir, state=None, count=9):
    data = VideoData(
        SECTION | {"manifest": str(manifest)}, Words(), Frames(), name="x", workdir=workdir, seed=3
    )
    stream = data.train(state=state)
    found = [(next(stream), stream.state) for _ in range(count)]
    stream.close()
    return found


def test_batches_and_their_resume_are_those_of_the_manifest(manifest, tmp_path):
    out, count = pack.pack(manifest)
    assert count == 20
    assert list(PackedRecords(out)) == read_manifest(manifest, check_videos=False)
    expected, found = batches(manifest, tmp_path / "a"), batches(out, tmp_path / "b")
    again = batches(out, tmp_path / "b", state=found[3][1], count=5)
    for first, second in [
        *zip(expected, found, strict=True),
        *zip(expected[4:], again, strict=True),
    ]:
        assert first[1] == second[1]
        for key in ("video", "ids", "text"):
            np.testing.assert_array_equal(first[0][key], second[0][key])
        same = [np.equal.outer(x[0]["video_id"], x[0]["video_id"]) for x in (first, second)]
        np.testing.assert_array_equal(*same)


def test_what_is_wrong_is_told_when_it_is_read(manifest, tmp_path):
    from array_record.python.array_record_module import ArrayRecordWriter

    def packed(name, rows):
        writer = ArrayRecordWriter(str(tmp_path / f"{name}.array_record"), "group_size:1")
        for row in rows:
            writer.write(row)
        writer.close()
        return PackedRecords(tmp_path / f"{name}.array_record")

    good = packed_row({"video": "a.mp4", "caption": "x"})
    bad = packed(
        "bad", [good, b"no json", packed_row({"video": "a.mp4", "question": "x", "answer": "y"})]
    )
    assert bad[0].captions == ("x",)
    with pytest.raises(ManifestError, match="line 2: is damaged"):
        bad[1]
    with pytest.raises(ManifestError, match="line 3: must have `caption` alone"):
        bad[2]
    with pytest.raises(ManifestError, match="rows with labels cannot be packed"):
        packed("labels", [packed_row({"video": "a.mp4", "label": "x"})])
    with pytest.raises(ManifestError, match="holds no rows"):
        packed("none", [])
    (tmp_path / "junk.array_record").write_bytes(b"junk" * 100)
    with pytest.raises(ManifestError, match="cannot be opened"):
        PackedRecords(tmp_path / "junk.array_record")
    assert number_of("a/../b.mp4") == number_of("b.mp4") != number_of("c.mp4")


def test_values_that_json_cannot_hold_are_named_and_nothing_is_written(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {"video": ["a.mp4", "b.mp4"], "caption": ["x", "y"], "when": [0.5, float("nan")]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "m.parquet")
    with pytest.raises(ManifestError, match="m.parquet, line 2: `when` is float: nan, which JSON"):
        pack.pack(tmp_path / "m.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["m.parquet"]


def test_a_text_of_which_nothing_is_left_is_skipped(tmp_path):
    file = tmp_path / "rows.jsonl"
    rows = [{"video": f"{i}.mp4", "caption": "!!!" if i == 1 else "word"} for i in range(4)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    section = SECTION | {"manifest": str(pack.pack(file)[0]), "captions": ("caption",)}
    section |= {"clean": "blip_caption", "prefix": ""}
    data = VideoData(section, Words(), Frames(), name="x", workdir=tmp_path)
    with pytest.raises(NoText):
        data._read(1, 0)
    assert data._read(2, 0).shape == (2, 4, 4, 3)


def test_the_command(manifest, capsys):
    assert pack.main([str(manifest)]) == 0 and "20 rows" in capsys.readouterr().out
    assert pack.main([str(manifest)]) == 1 and "exists; remove it first" in capsys.readouterr().err
    assert pack.main([str(manifest) + "x"]) == 1


OPENS = """
import sys, resource
import test_packed
found = test_packed.batches(sys.argv[1], sys.argv[2], count=3)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(peak)
"""


@pytest.mark.slow
def test_a_million_rows_open_at_once(tmp_path):
    import pathlib

    import pyarrow as pa
    import pyarrow.parquet

    count = 1_000_000
    columns = {
        "video": [f"videos/{i}.mp4" for i in range(count)],
        "caption": [f"what video number {i} shows" for i in range(count)],
    }
    pyarrow.parquet.write_table(
        pa.table(columns | {"other": columns["caption"]}), tmp_path / "a.parquet"
    )
    out, _ = pack.pack(tmp_path / "a.parquet")
    here = str(pathlib.Path(__file__).parent)
    told = subprocess.run(
        [sys.executable, "-c", OPENS, str(out), str(tmp_path)],
        check=True, capture_output=True, text=True, cwd=here,
    ).stdout  # fmt: skip
    peak = float(told)
    assert peak < 1 << 20  # KB; mostly from imports
