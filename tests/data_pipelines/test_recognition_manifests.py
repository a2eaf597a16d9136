"""Action recognition manifests: public lists with the right counts, and lists without them."""

import json
import pathlib
import runpy
import sys

import pytest

from data_pipelines import hmdb51, kinetics, ssv2, ucf101
from data_pipelines.annotation_files import AnnotationError
from data_pipelines.label_files import class_name, read_class_names, read_labels
from data_pipelines.recognition import write_manifests_and_classes
from vlt.data.manifests.manifest import Record, read_classes, read_manifest
from vlt.evaluation.recognition_protocols import named_recognition_protocol

SPLIT_LISTS = "annotations/vificlip_splits"
LABELS = "annotations/vificlip_labels"
SAMPLINGS = ("base_train_s1", "base_train_s2", "base_train_s3")


def touch(folder: pathlib.Path, names: list[str]) -> pathlib.Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def listed(path: pathlib.Path) -> list[str]:
    return [line.split()[0] for line in path.read_text().splitlines()]


def few(classes: int) -> dict[str, int]:
    return {f"few_shot_{shots}": shots * classes for shots in (2, 4, 8, 16)}


@pytest.mark.parametrize(
    ("data", "folders", "videos", "classes"),
    [
        (
            hmdb51,
            ("hmdb_splits", "base2novel_splits/hmdb_splits"),
            {"val1": 1530, "val2": 1530, "val3": 1530, "base_val": 780, "novel_val": 750}
            | few(51)
            | dict.fromkeys(SAMPLINGS, 16 * 26),
            {"classes": 51, "base_classes": 26, "novel_classes": 25},
        ),
        (
            ucf101,
            ("ucf_splits", "base2novel_splits/ucf_splits"),
            {"val1": 3783, "val2": 3734, "val3": 3696, "base_val": 2088, "novel_val": 1695}
            | few(101)
            | dict.fromkeys(SAMPLINGS, 16 * 51),
            {"classes": 101, "base_classes": 51, "novel_classes": 50},
        ),
        (
            ssv2,
            ("ssv2_splits", "base2novel_splits/ssv2_splits"),
            {"val": 24_777, "base_val": 17_562, "novel_val": 7215}
            | few(174)
            | dict.fromkeys(SAMPLINGS, 16 * 87),
            {"classes": 174, "base_classes": 87, "novel_classes": 87},
        ),
        (
            kinetics,
            ("k400_splits", "base2novel_splits/k400_splits"),
            {"val": 19_877, "base_val": 9944, "novel_val": 9933}
            | dict.fromkeys(SAMPLINGS, 16 * 200),
            {"classes": 400, "base_classes": 200, "novel_classes": 200},
        ),
        (
            kinetics,
            ("k600_splits",),
            {"zero_shot_1": 14_084, "zero_shot_2": 13_978, "zero_shot_3": 14_136},
            {f"zero_shot_{n}_classes": 160 for n in (1, 2, 3)},
        ),
    ],
)
def test_public_lists_have_the_counts_of_the_papers(
    shared, tmp_path, data, folders, videos, classes
):
    lists = [shared / SPLIT_LISTS / folder for folder in folders]
    # Two videos of each list exist; the counts are those of the list.
    some = [name for folder in lists for path in folder.glob("*.txt") for name in listed(path)[:2]]
    lines = write_manifests_and_classes(
        data.SPLITS,
        [shared / LABELS, *lists],
        touch(tmp_path / "videos", some),
        tmp_path / "out",
        missing="drop",
    )
    made = {}
    for line in (line for line in lines if "dropped" in line):
        path, _, text = line.partition(": ")
        made[pathlib.Path(path).stem] = int(text.split(" of ")[1].split()[0].replace(",", ""))
    assert made == videos
    found = {path.stem: len(read_classes(path)) for path in (tmp_path / "out").glob("*classes.txt")}
    assert found == classes


@pytest.fixture(scope="module")
def made(shared, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Manifests of HMDB-51 with all `val1` videos of its first split, in one class folder."""
    root, lists = tmp_path_factory.mktemp("hmdb"), shared / SPLIT_LISTS / "hmdb_splits"
    names = [f"some_class/{name}" for name in listed(lists / "val1.txt")]
    given = [lists / "val1.txt", shared / LABELS / "hmdb_51_labels.csv"]
    videos = touch(root / "videos", names)
    write_manifests_and_classes(hmdb51.SPLITS, given, videos, root / "out")
    return root


def test_rows_have_names_of_classes_and_pass_the_protocol(shared, made):
    out = made / "out"
    first = json.loads((out / "val1.jsonl").read_text().partition("\n")[0])
    name = "Aussie_Brunette_Brushing_Long_Hair_brush_hair_u_nm_np1_ba_med_3"
    video = f"../videos/some_class/{name}.avi"
    assert first == {"id": name, "video": video, "label": "brush hair"}
    records, classes = read_manifest(out / "val1.jsonl"), read_classes(out / "classes.txt")
    protocol = named_recognition_protocol("hmdb51_zero_shot_1")
    assert protocol.check(records, classes) == "hmdb51_zero_shot_1"
    assert classes == read_classes(shared / LABELS / "hmdb_51_labels.csv")


def test_first_test_set_of_every_protocol_passes_it(shared):
    lists, labels = shared / SPLIT_LISTS, shared / LABELS
    for name, path, table in (
        ("ucf101_few_shot_8", "ucf_splits/val1.txt", "ucf_101_labels.csv"),
        ("ssv2_novel", "base2novel_splits/ssv2_splits/novel_val.txt", "ssv2_174_novel_labels.csv"),
        ("k400", "k400_splits/val.txt", "kinetics_400_labels.csv"),
        ("k600_zero_shot_2", "k600_splits/ZS_split2_K600_eval.txt", "ZS_split2_K600.csv"),
    ):
        names = read_class_names(labels / table)
        records = [
            Record(video, video, (), label, None, (), {}, line)
            for line, (video, label) in enumerate(read_labels(lists / path, names).items(), 1)
        ]
        assert named_recognition_protocol(name).check(records, names) == name


@pytest.fixture
def small(tmp_path, shared) -> tuple:
    """Arguments for HMDB's 2-shot set, whose files a test may change."""
    for source in (
        f"{SPLIT_LISTS}/hmdb_splits/train1_few_shot_2.txt",
        f"{LABELS}/hmdb_51_labels.csv",
    ):
        path = shared / source
        (tmp_path / path.name).write_text(path.read_text())
    videos = touch(tmp_path / "videos", listed(tmp_path / "train1_few_shot_2.txt"))
    return hmdb51.SPLITS, [tmp_path], videos, tmp_path / "out"


def edit(arguments: tuple, change) -> None:
    path = arguments[1][0] / "train1_few_shot_2.txt"
    path.write_text("\n".join(change(path.read_text().splitlines())))


def test_one_video_too_few_of_a_class_is_named(small):
    edit(small, lambda lines: lines[1:])
    with pytest.raises(AnnotationError, match=r"1 instead of 2 videos of 1 \('brush hair'\) class"):
        write_manifests_and_classes(*small)
    (line, *_) = write_manifests_and_classes(*small, allow_subset=True)
    assert "101 videos, 51 classes; a subset: 1 instead of 2 videos of 1 ('brush hair')" in line
    edit(small, lambda lines: lines[1:])
    with pytest.raises(AnnotationError, match=r"no video of 1 \('brush hair'\) of 51 classes in"):
        write_manifests_and_classes(*small)
    (line, *_) = write_manifests_and_classes(*small, allow_subset=True)
    assert "100 videos, 50 classes (" in line


def test_a_video_too_many_is_named_with_its_class(small):
    edit(small, lambda lines: [*lines, "new.avi 50"])
    touch(small[2], ["new.avi"])
    with pytest.raises(AnnotationError, match=r"3 instead of 2 videos of 1 \('wave'\).*, new\) in"):
        write_manifests_and_classes(*small, allow_subset=True)


def test_rows_that_cannot_be_used_are_named(small):
    def change(lines: list[str]) -> list[str]:
        return [lines[0], "a.avi 51", "b.avi", f"x/{lines[0]}", *lines[1:], "c.avi walk"]

    edit(small, change)
    with pytest.raises(AnnotationError) as raised:
        write_manifests_and_classes(*small, allow_subset=True)
    message = str(raised.value)
    assert "train1_few_shot_2.txt: 4 rows cannot be used:" in message
    assert "line 2, 'a.avi 51': no path and number below 51" in message
    assert "line 3, 'b.avi': no path and number" in message
    assert "line 4, 'x/" in message and "': video of line 1" in message
    assert "line 106, 'c.avi walk'" in message


def test_a_table_of_other_classes_is_refused(small, shared):
    table = small[1][0] / "hmdb_51_labels.csv"
    table.write_text((shared / LABELS / "hmdb_51_base_labels.csv").read_text())
    with pytest.raises(AnnotationError, match="hmdb_51_labels.csv: 26 classes instead of 51"):
        write_manifests_and_classes(*small)
    table.write_text("id,name\n0,a_b\n1,a b\n")
    with pytest.raises(AnnotationError, match="classes come twice: a b"):
        write_manifests_and_classes(*small)
    table.write_text("id,name\n1,a b\n")
    with pytest.raises(AnnotationError, match="line 2: must be id 0 and a name"):
        write_manifests_and_classes(*small)


def test_a_smaller_test_set_and_missing_videos_are_reported(small, shared):
    lines = (shared / SPLIT_LISTS / "hmdb_splits/val2.txt").read_text().splitlines()
    (small[1][0] / "val2.txt").write_text("\n".join(lines[:-1]))
    touch(small[2], [line.split()[0] for line in lines[2:]])
    with pytest.raises(AnnotationError, match="val2: 1,529 instead of 1,530 videos in .*allow-sub"):
        write_manifests_and_classes(*small)
    told = write_manifests_and_classes(*small, allow_subset=True, missing="drop")
    (line,) = [line for line in told if "val2.jsonl" in line]
    # One of the two videos is in the few-shot list as well.
    assert "a subset: 1,529 instead of 1,530 videos" in line and "of 1,529 videos dropped" in line
    assert "val1: not made; it takes val1.txt with hmdb_51_labels.csv" in told


def test_underscores_are_spaces_and_nothing_else_changes():
    assert class_name("brush_hair") == "brush hair"
    assert class_name("ApplyEyeMakeup") == "ApplyEyeMakeup"
    assert class_name("Moving [something], up") == "Moving [something], up"


@pytest.mark.parametrize("module", ["hmdb51", "ucf101", "ssv2", "kinetics"])
def test_modules_are_commands(shared, tmp_path, monkeypatch, capsys, module):
    given = ["--videos", tmp_path, "--annotations", shared / "vocab", "--out", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", [module, *map(str, given)])
    monkeypatch.delitem(sys.modules, f"data_pipelines.{module}")  # otherwise runpy warns
    with pytest.raises(SystemExit):
        runpy.run_module(f"data_pipelines.{module}", run_name="__main__")
    told = capsys.readouterr().err
    assert "no annotation file is one of those:" in told
    assert "base_val: not made; it takes base_val.txt with" in told
