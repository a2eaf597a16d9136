"""Captioning manifests from the layouts of the data sets and Token Mixing, with their counts."""

import json
import pathlib
import subprocess
import sys

import pytest

from data_pipelines import msrvtt_captions, msvd, vatex
from data_pipelines.annotation_files import AnnotationError, read_captions
from data_pipelines.manifests import Split, write_manifests
from vlt.data.manifests.manifest import read_manifest
from vlt.evaluation.protocols import named_protocol

MSRVTT = {"train": 6513, "validate": 497, "test": 2990}
VATEX = {
    "vatex_training_v1.0": 25_991,
    "vatex_validation_v1.0": 3000,
    "vatex_public_test_english_v1.1": 6000,
}


def dump(path: pathlib.Path, content: object) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def touch(folder: pathlib.Path, *names: str) -> pathlib.Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def write(
    splits: tuple[Split, ...], annotations: pathlib.Path, *names: str, **options
) -> list[str]:
    """Writes manifests to annotations/out; only the named videos exist."""
    videos = touch(annotations / "videos", *(f"{name}.mp4" for name in names))
    options = {"missing": "drop"} | options
    return write_manifests(splits, [annotations], videos, annotations / "out", **options)


def rows(folder: pathlib.Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"out/{name}.jsonl").read_text().splitlines()]


def videodatainfo(counts: dict[str, int], captions: int = 20) -> dict:
    """MSR-VTT's own format, with videos named by split and number."""
    names = [(f"{split}{n}", split) for split, count in counts.items() for n in range(count)]
    return {
        "info": {"contributor": "nobody"},
        "videos": [{"video_id": name, "split": split, "category": 9} for name, split in names],
        "sentences": [
            {"video_id": name, "caption": f"caption {c}", "sen_id": c}
            for name, _ in names
            for c in range(captions)
        ],
    }


@pytest.mark.quick(1)
@pytest.mark.parametrize("merged", [True, False])
def test_msrvtt_is_split_as_its_file_says(tmp_path, merged):
    if merged:
        dump(tmp_path / "MSRVTT_data.json", videodatainfo(MSRVTT))
    else:
        trained = {name: MSRVTT[name] for name in ("train", "validate")}
        dump(tmp_path / "train_val_videodatainfo.json", videodatainfo(trained))
        dump(tmp_path / "test_videodatainfo.json", videodatainfo({"test": 2990}))
    lines = write(msrvtt_captions.SPLITS, tmp_path, "train7", "validate8", "test9")
    dropped = [line.partition("; ")[2].partition(" videos")[0] for line in lines]
    assert dropped == ["6,512 of 6,513", "496 of 497", "2,989 of 2,990"]
    train, (val,), (test,) = (rows(tmp_path, name) for name in ("train", "val", "test"))
    assert len(train) == 20
    assert train[3] == {"id": "train7#3", "video": "../videos/train7.mp4", "caption": "caption 3"}
    assert val["id"] == "validate8" and test["id"] == "test9" and len(test["caption"]) == 20


def test_msrvtt_of_another_split_is_refused(tmp_path):
    counts = MSRVTT | {"train": 6512, "test": 2991}
    dump(tmp_path / "MSRVTT_data.json", videodatainfo(counts, captions=1))
    with pytest.raises(AnnotationError) as raised:
        write(msrvtt_captions.SPLITS, tmp_path, "train7", allow_subset=True)
    assert "test: 2,991 instead of 2,990 videos" in str(raised.value)
    assert "train: 6,512" not in str(raised.value)
    dump(tmp_path / "MSRVTT_data.json", videodatainfo({"training": 3}))
    with pytest.raises(
        AnnotationError, match="no sentence of a video whose split is 'train', of tr"
    ):
        write(msrvtt_captions.SPLITS, tmp_path, "training0")
    dump(tmp_path / "MSRVTT_data.json", {"sentences": []})
    with pytest.raises(AnnotationError, match="no 'videos'; needed are `videos` with `video_id`"):
        write(msrvtt_captions.SPLITS, tmp_path, "training0")


def test_missing_videos_are_listed_in_a_file_that_a_later_run_takes_away(tmp_path):
    content = [{"video": f"v{n}", "caption": ["text"] * 20} for n in range(497)]
    dump(tmp_path / "val.json", content)
    line = write(msrvtt_captions.SPLITS, tmp_path, *(f"v{n}" for n in range(2, 497)))[0]
    assert "495 videos, 9,900 captions; 2 of 497 videos dropped, which have no file" in line
    assert "(listed in val.missing.txt)" in line
    listed = tmp_path / "out/val.missing.txt"
    assert listed.read_text() == "v0\nv1\n"
    with pytest.raises(
        AnnotationError, match="no file for 2 of 497 videos: v0, v1; --missing=drop"
    ):
        write(msrvtt_captions.SPLITS, tmp_path, missing="error")
    assert "dropped" not in write(msrvtt_captions.SPLITS, tmp_path, "v0", "v1")[0]
    assert not listed.exists()


@pytest.mark.slow
def test_vatex_takes_the_english_captions(tmp_path):
    for name, count in VATEX.items():
        entries = [
            {"videoID": f"-{n}_000179_000189", "enCap": ["A man."] * 10, "chCap": ["一个人。"] * 10}
            for n in range(count)
        ]
        dump(tmp_path / f"{name}.json", entries)
    lines = write(vatex.SPLITS, tmp_path, "-2_000179_000189")
    dropped = [line.partition("; ")[2].partition(" videos")[0] for line in lines]
    assert dropped == ["25,990 of 25,991", "2,999 of 3,000", "5,999 of 6,000"]
    assert [row["caption"] for row in rows(tmp_path, "train")] == ["A man."] * 10
    assert rows(tmp_path, "test")[0]["id"] == "-2_000179_000189"


def test_msvd_of_its_own_text_file(tmp_path):
    lines = [f"-v{n}_1_9 A man  runs, {c}." for n in range(1970) for c in range(3)]
    text = "# Microsoft Research Video Description Corpus\n#\n\n" + "\n".join(lines) + "\n"
    (tmp_path / "AllVideoDescriptions.txt").write_text(text)
    parts = {"train": range(1200), "val": range(1200, 1300), "test": range(1300, 1970)}
    for name, numbers in parts.items():
        (tmp_path / f"{name}_list.txt").write_text("".join(f"-v{n}_1_9\n" for n in numbers))
    found = write(msvd.SPLITS, tmp_path, *(f"-v{n}_1_9" for n in range(1970)))
    assert [line.partition(": ")[2].partition(" (")[0] for line in found] == [
        "1,200 videos, 3,600 captions",
        "100 videos, 300 captions",
        "670 videos, 2,010 captions",
    ]
    assert rows(tmp_path, "test")[0]["caption"][1] == "A man runs, 1."
    protocol = named_protocol("msvd_captions")
    records = read_manifest(tmp_path / "out/test.jsonl")
    assert protocol.check(protocol.pairs(records)) == "msvd_captions"
    (tmp_path / "AllVideoDescriptions.txt").write_text("v_1_9\n")
    with pytest.raises(AnnotationError, match="no caption follows 'v_1_9'"):
        read_captions(tmp_path / "AllVideoDescriptions.txt")


@pytest.mark.parametrize(
    ("splits", "folder", "expected"),
    [
        (
            msrvtt_captions.SPLITS,
            "msrvtt",
            [
                "497 videos, 9,940 captions (from val.json)",
                "200 videos, 4,000 captions; a subset: 200 instead of 2,990 videos "
                "(from test.first200.json)",
            ],
        ),
        (
            vatex.SPLITS,
            "vatex",
            [
                "300 videos, 3,000 captions; a subset: 300 instead of 3,000 videos "
                "(from val.first300.json)"
            ],
        ),
    ],
)
def test_shared_lists_that_were_cut_are_subsets(shared, tmp_path, splits, folder, expected):
    annotations = shared / "annotations" / folder
    entries = [
        entry
        for file in (*annotations.glob("val.*json"), *annotations.glob("test.*json"))
        for entry in json.loads(file.read_text())
    ]
    videos = touch(tmp_path / "videos", *(f"{entry['video']}.mp4" for entry in entries))
    with pytest.raises(AnnotationError, match="instead of .*--allow-subset"):
        write_manifests(splits, [annotations], videos, tmp_path / "out")
    lines = write_manifests(splits, [annotations], videos, tmp_path / "out", allow_subset=True)
    made = [line.partition(": ")[2] for line in lines if "not made" not in line]
    assert made == expected
    held = {
        record.id: list(record.captions)
        for file in (tmp_path / "out").glob("*.jsonl")
        for record in read_manifest(file)
    }
    # Some captions of VATEX have two spaces between words.
    stated = {e["video"]: [" ".join(text.split()) for text in e["caption"]] for e in entries}
    assert held == stated


def test_modules_are_commands(shared, tmp_path):
    entries = json.loads((shared / "annotations/msrvtt/val.json").read_text())
    videos = touch(tmp_path / "videos", *(f"{entry['video']}.mp4" for entry in entries))
    done = subprocess.run(
        [sys.executable, "-m", "data_pipelines.msrvtt_captions", "--videos", videos]
        + ["--annotations", shared / "annotations/msrvtt/val.json", "--out", tmp_path / "out"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "val.jsonl: 497 videos, 9,940 captions (from val.json)" in done.stdout
    assert "train: not made; it takes MSRVTT_data.json, or train_val_videod" in done.stdout
