"""Users' own labelled data: folders of classes, few shots, base and novel classes."""

import collections
import datetime
import json
import pathlib
import sys

import pytest

from data_pipelines import base_to_novel, few_shot, folder_per_class
from data_pipelines.annotation_files import AnnotationError
from data_pipelines.base_to_novel import write_halves
from data_pipelines.few_shot import write_few
from data_pipelines.folder_per_class import write_folders
from vlt.data.manifests.manifest import ManifestError, read_classes, read_manifest


def manifest(path: pathlib.Path, counts: dict[str, int]) -> str:
    """A manifest with these numbers of videos per class, in turn; the video files exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"id": f"{label}{n}", "video": f"videos/{label}{n}.mp4", "label": label, "speed": n}
        for n in range(max(counts.values()))
        for label, count in counts.items()
        if n < count
    ]
    (path.parent / "videos").mkdir(exist_ok=True)
    for row in rows:
        (path.parent / row["video"]).touch()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def labels(path: pathlib.Path) -> dict[str, int]:
    return dict(collections.Counter(str(record.label) for record in read_manifest(path)))


def ids(path: pathlib.Path) -> list[str]:
    return [record.id for record in read_manifest(path)]


def test_few_shots_are_of_every_class_and_the_rest_is_all_others(tmp_path):
    source = manifest(tmp_path / "data/train.jsonl", {"run": 9, "jump": 5, "sit": 4})
    few, rest = tmp_path / "deep/few.jsonl", tmp_path / "rest.jsonl"
    lines = write_few(source, str(few), shots=3, seed=0, rest=str(rest))
    assert [line.partition(": ")[2] for line in lines] == [
        "9 videos; few_classes.txt: 3 classes",
        "9 videos; rest_classes.txt: 3 classes",
    ]
    assert labels(few) == {"run": 3, "jump": 3, "sit": 3}
    assert labels(rest) == {"run": 6, "jump": 2, "sit": 1}
    order = ids(pathlib.Path(source))
    assert ids(few) == [name for name in order if name in ids(few)]
    assert sorted([*ids(few), *ids(rest)]) == sorted(order)
    assert read_classes(tmp_path / "deep/few_classes.txt") == ["jump", "run", "sit"]
    row = json.loads(few.read_text().splitlines()[0])
    assert row["video"] == f"../data/videos/{row['id']}.mp4" and "speed" in row


def test_the_draw_depends_on_the_seed_alone_and_more_shots_hold_the_fewer(tmp_path):
    one = manifest(tmp_path / "one.jsonl", {"run": 40, "jump": 40})
    other = manifest(tmp_path / "b/other.jsonl", {"jump": 40, "sit": 9, "run": 40})

    def drawn(source: str, shots: int, seed: int) -> set[str]:
        write_few(source, str(tmp_path / "few.jsonl"), shots, seed)
        return {name for name in ids(tmp_path / "few.jsonl") if not name.startswith("sit")}

    assert drawn(one, 8, seed=1) == drawn(other, 8, seed=1)
    assert drawn(one, 4, seed=1) < drawn(one, 8, seed=1)
    assert drawn(one, 8, seed=1) != drawn(one, 8, seed=2)


def test_a_class_with_fewer_than_the_shots_is_named(tmp_path):
    source = manifest(tmp_path / "a.jsonl", {"run": 9, "jump": 5})
    with pytest.raises(AnnotationError, match="class 'jump' has 5 videos, 6 are asked for"):
        write_few(source, str(tmp_path / "few.jsonl"), 6, seed=0)
    with pytest.raises(AnnotationError, match="--shots must be >= 1, got 0"):
        write_few(source, str(tmp_path / "few.jsonl"), 0, seed=0)
    with pytest.raises(AnnotationError, match="would be written over"):
        write_few(source, source, 2, seed=0)
    with pytest.raises(AnnotationError, match=r"few.csv: a manifest is written as a \.jsonl"):
        write_few(source, str(tmp_path / "few.csv"), 2, seed=0)
    assert [path.name for path in tmp_path.glob("few*")] == []


def test_every_row_of_a_video_goes_where_the_video_goes(tmp_path):
    source = pathlib.Path(manifest(tmp_path / "a.jsonl", {"run": 9}))
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    rows += [row | {"id": f"{row['id']}b", "video": f"./{row['video']}"} for row in rows]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    few, rest = tmp_path / "few.jsonl", tmp_path / "rest.jsonl"
    lines = write_few(str(source), str(few), 4, seed=0, rest=str(rest))
    assert "few.jsonl: 4 videos" in lines[0] and "rest.jsonl: 5 videos" in lines[1]
    drawn, others = ([record.video for record in read_manifest(path)] for path in (few, rest))
    assert len(drawn) == 8 and len({*drawn}) == 4 and not {*drawn} & {*others}
    with pytest.raises(AnnotationError, match="class 'run' has 9 videos, 10 are asked for"):
        write_few(str(source), str(few), 10, seed=0)


def test_paths_lead_on_from_a_folder_that_is_a_link(tmp_path):
    source = pathlib.Path(manifest(tmp_path / "disk/data/train.jsonl", {"run": 2}))
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    lists = tmp_path / "disk/lists"
    lists.mkdir()
    moved = [row | {"video": f"../data/{row['video']}"} for row in rows]
    (lists / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in moved))
    (tmp_path / "link").symlink_to(lists)
    write_few(str(tmp_path / "link/train.jsonl"), str(tmp_path / "few.jsonl"), 1, seed=0)
    assert len(read_manifest(tmp_path / "few.jsonl")) == 1  # its video exists


def test_manifests_of_other_kinds(tmp_path):
    (tmp_path / "a.csv").write_text("video,label\nv/a.mp4,7\nv/b.mp4,7\nv/c.mp4,10\n")
    write_few(str(tmp_path / "a.csv"), str(tmp_path / "few.jsonl"), 1, seed=0)
    found = read_manifest(tmp_path / "few.jsonl", check_videos=False)
    assert [record.label for record in found] == ["7", "10"]
    (tmp_path / "b.jsonl").write_text('{"video": "a.mp4", "caption": "text"}\n')
    with pytest.raises(ManifestError, match="b.jsonl, line 1: has no `label`"):
        write_few(str(tmp_path / "b.jsonl"), str(tmp_path / "few.jsonl"), 1, seed=0)


def test_classes_are_halved_by_frequency(tmp_path):
    counts = {"sit": 3, "run": 9, "jump": 5, "hop": 5, "wave": 1}
    source = manifest(tmp_path / "data/train.jsonl", counts)
    val = manifest(tmp_path / "val/val.jsonl", {"wave": 8, "run": 1, "sit": 2})
    lines = write_halves(source, str(tmp_path / "out"), val)
    out = tmp_path / "out"
    assert read_classes(out / "base_classes.txt") == ["run", "hop", "jump"]
    assert read_classes(out / "novel_val_classes.txt") == ["sit", "wave"]
    assert labels(out / "base.jsonl") == {"run": 9, "hop": 5, "jump": 5}
    assert labels(out / "novel.jsonl") == {"sit": 3, "wave": 1}
    assert labels(out / "base_val.jsonl") == {"run": 1}
    assert labels(out / "novel_val.jsonl") == {"sit": 2, "wave": 8}
    assert lines[0].endswith("base.jsonl: 19 videos; base_classes.txt: 3 classes")
    # As for HMDB-51, an odd number of classes has one more base class.
    halves = base_to_novel.halves([{"label": f"{n}"} for n in range(51)])
    assert {half: len(names) for half, names in halves.items()} == {"base": 26, "novel": 25}


def test_base_and_novel_refuse_what_they_cannot_part(tmp_path):
    source = manifest(tmp_path / "base.jsonl", {"run": 2, "sit": 1})
    with pytest.raises(AnnotationError, match="base.jsonl: would be written over"):
        write_halves(source, str(tmp_path))
    other = manifest(tmp_path / "other.jsonl", {"run": 2, "fly": 1})
    with pytest.raises(AnnotationError, match="other.jsonl: 1 classes that .*has not: 'fly'"):
        write_halves(source, str(tmp_path / "out"), other)
    one = manifest(tmp_path / "one.jsonl", {"run": 2})
    with pytest.raises(AnnotationError, match="take two classes; there is run"):
        write_halves(one, str(tmp_path / "out"))


def touch(folder: pathlib.Path, *names: str) -> pathlib.Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def test_a_folder_for_each_class(tmp_path):
    names = ("run/a.mp4", "brush_hair/b/a.AVI", "run/c.webm", "run/._c.webm", "run/notes.txt")
    folder = touch(tmp_path / "videos", *names, ".cache/x.mp4")
    (line,) = write_folders(str(folder), str(tmp_path / "data/train.jsonl"))
    assert line.endswith("train.jsonl: 3 videos; train_classes.txt: 2 classes")
    rows = [json.loads(row) for row in (tmp_path / "data/train.jsonl").read_text().splitlines()]
    assert rows == [
        {
            "id": "brush_hair/b/a.AVI",
            "video": "../videos/brush_hair/b/a.AVI",
            "label": "brush hair",
        },
        {"id": "run/a.mp4", "video": "../videos/run/a.mp4", "label": "run"},
        {"id": "run/c.webm", "video": "../videos/run/c.webm", "label": "run"},
    ]
    assert read_classes(tmp_path / "data/train_classes.txt") == ["brush hair", "run"]
    assert len(read_manifest(tmp_path / "data/train.jsonl")) == 3


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "no such folder of videos"),
        (("notes.txt",), "holds no folders, one for each class"),
        (("run/a.mp4", "sit/notes.txt"), "sit: holds no file that ends as a video does"),
        (("run/a.mp4", "b.mp4"), "1 videos in no class's folder: b.mp4"),
        (("a_b/a.mp4", "a b/a.mp4"), "are both class 'a b'"),
    ],
)
def test_folders_of_another_form(tmp_path, names, message):
    touch(tmp_path / "videos", *names)
    with pytest.raises(AnnotationError, match=message):
        write_folders(str(tmp_path / "videos"), str(tmp_path / "out.jsonl"))


def test_commands(tmp_path, monkeypatch, capsys):
    def run(module, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        module.main()
        return capsys.readouterr().out

    folder = touch(tmp_path / "videos", *(f"{c}/{n}.mp4" for c in ("run", "sit") for n in range(4)))
    every, few = tmp_path / "all.jsonl", tmp_path / "few.jsonl"
    assert "8 videos" in run(folder_per_class, folder, every)
    rest = tmp_path / "rest.jsonl"
    assert "4 videos" in run(few_shot, every, few, "--shots=2", "--seed=3", "--rest", rest)
    assert "novel_val.jsonl: 2 videos" in run(base_to_novel, few, tmp_path / "b", "--val", rest)
    with pytest.raises(SystemExit):
        run(few_shot, every, few, "--shots=5", "--seed=3")
    assert "class 'run' has 4 videos, 5 are asked for" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(few_shot, tmp_path / "none.jsonl", few, "--shots=5", "--seed=3")
    assert "there is no such file" in capsys.readouterr().err


def test_labels_that_differ_in_looks_alone_are_named_before_anything_is_written(tmp_path):
    source = manifest(tmp_path / "data/train.jsonl", {"run": 4, "Run": 4, "sit": 4})
    with pytest.raises(ManifestError, match="line 2: 'Run' and 'run' of line 1 differ in case"):
        write_few(source, str(tmp_path / "few.jsonl"), shots=3, seed=0)
    with pytest.raises(ManifestError, match="line 2: 'Run' and 'run' of line 1 differ in case"):
        write_halves(source, str(tmp_path / "out"))
    folder = touch(tmp_path / "videos", "Brush_Hair/a.mp4", "brush hair/b.mp4")
    with pytest.raises(AnnotationError, match="are both class 'brush hair', but for case"):
        write_folders(str(folder), str(tmp_path / "all.jsonl"))
    assert not (tmp_path / "few.jsonl").exists() and not (tmp_path / "all.jsonl").exists()


def test_classes_with_space_around_are_one(tmp_path):
    (tmp_path / "a.csv").write_text("video,label\na.mp4,run\nb.mp4,run \nc.mp4,sit\n")
    (line,) = write_few(str(tmp_path / "a.csv"), str(tmp_path / "few.jsonl"), 1, seed=0)
    assert "2 videos; few_classes.txt: 2 classes" in line
    assert read_classes(tmp_path / "few_classes.txt") == ["run", "sit"]


@pytest.mark.parametrize("name", ["_", "1.0", "nan", "run\x1b"])
def test_folders_whose_names_are_no_classes(tmp_path, name):
    folder = touch(tmp_path / "videos", f"{name}/a.mp4")
    with pytest.raises(AnnotationError, match="the name of a class "):
        write_folders(str(folder), str(tmp_path / "all.jsonl"))


def test_a_video_whose_name_is_not_utf8_is_named(tmp_path):
    folder = touch(tmp_path / "videos", "run/caf\udce9.mp4")
    with pytest.raises(AnnotationError, match=r"caf\\udce9.mp4: the name is not UTF-8.*rename it"):
        write_folders(str(folder), str(tmp_path / "all.jsonl"))


def test_values_that_json_cannot_hold_are_named(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    for value in (b"a", float("nan"), datetime.date(2020, 1, 1)):
        table = {"video": ["a.mp4"], "label": ["run"], "when": [value]}
        parquet.write_table(pyarrow.table(table), tmp_path / "a.parquet")
        with pytest.raises(ManifestError, match="a.parquet, line 1: `when` is .*JSON cannot"):
            write_few(str(tmp_path / "a.parquet"), str(tmp_path / "few.jsonl"), 1, seed=0)
        assert [path.name for path in tmp_path.glob("few*")] == []
