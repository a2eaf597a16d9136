"""Manifests from annotation files in the layouts in use, with the papers' counts."""

import collections
import csv
import json
import pathlib
import pickle
import sys

import numpy as np
import pytest

from data_pipelines import activitynet, didemo, lsmdc, msrvtt, msvd
from data_pipelines.annotation_files import (
    AnnotationError,
    read_captions,
    video_name,
    video_names,
)
from data_pipelines.manifests import main, write_manifests
from vlt.data.manifests.manifest import Record, read_manifest
from vlt.evaluation.protocols import named_protocol


def touch(folder: pathlib.Path, *names: str) -> pathlib.Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def dump(path: pathlib.Path, content: object) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def manifest(folder: pathlib.Path, name: str) -> list[Record]:
    return read_manifest(folder / f"{name}.jsonl", check_videos=True)


@pytest.fixture(scope="module")
def msrvtt_files(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return clip4clip(
        tmp_path_factory.mktemp("msrvtt"), 10_000, {"9k": 9000, "7k": 7010}, range(9000, 10_000)
    )


def clip4clip(
    root: pathlib.Path, count: int, trained: dict[str, int], tested: range
) -> pathlib.Path:
    """MSR-VTT as CLIP4Clip distributes it, with empty files for videos."""
    sentences = [
        {"caption": f" caption {c} of\n{n} ", "video_id": f"video{n}", "sen_id": 20 * n + c}
        for n in range(count)
        for c in range(20)
    ]
    videos = [{"video_id": f"video{n}", "split": "train"} for n in range(count)]
    dump(root / "annotations/MSRVTT_data.json", {"videos": videos, "sentences": sentences})
    for name, listed in trained.items():
        lines = "\n".join(["video_id", *(f"video{n}" for n in range(listed))])
        (root / f"annotations/MSRVTT_train.{name}.csv").write_text(lines + "\n")
    with (root / "annotations/MSRVTT_JSFUSION_test.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["key", "vid_key", "video_id", "sentence"])
        for n in tested:
            rows.writerow([f"ret{n - 9000}", f"msr{n}", f"video{n}", f'a man says "{n}, go"'])
    touch(root / "videos", *(f"all/video{n}.mp4" for n in {*range(count), *tested}))
    return root


@pytest.mark.slow
def test_msrvtt_has_its_training_sets_by_caption_and_its_test_by_video(msrvtt_files):
    out = msrvtt_files / "out"
    lines = write_manifests(
        msrvtt.SPLITS, [msrvtt_files / "annotations"], msrvtt_files / "videos", out
    )
    assert [line.partition(": ")[2] for line in lines] == [
        "9,000 videos, 180,000 captions (from MSRVTT_data.json with MSRVTT_train.9k.csv)",
        "7,010 videos, 140,200 captions (from MSRVTT_data.json with MSRVTT_train.7k.csv)",
        "1,000 videos, 1,000 captions (from MSRVTT_JSFUSION_test.csv)",
    ]
    first = (out / "train_9k.jsonl").read_text().splitlines()[21]
    assert json.loads(first) == {
        "id": "video1#1",
        "video": "../videos/all/video1.mp4",
        "caption": "caption 1 of 1",
    }
    rows = read_manifest(out / "train_7k.jsonl", check_videos=False)
    assert len(rows) == 7010 * 20 and len({row.video for row in rows}) == 7010
    test = manifest(out, "test_1ka")
    assert test[0].captions == ('a man says "9000, go"',)
    for name in ("msrvtt_1ka", "msrvtt_1ka_9k", "msrvtt_1ka_7k"):
        protocol = named_protocol(name)
        assert protocol.check(protocol.pairs(test)) == name


def test_msrvtt_cut_short_is_refused_with_what_was_found_and_written_as_a_subset(tmp_path):
    root = clip4clip(tmp_path, 400, {"9k": 300}, range(9000, 9010))
    arguments = (msrvtt.SPLITS, [root / "annotations"], root / "videos", root / "out")
    with pytest.raises(AnnotationError) as raised:
        write_manifests(*arguments)
    message = str(raised.value)
    assert "train_9k: 300 instead of 9,000 videos in" in message and "train.9k.csv" in message
    assert "test_1ka: 10 instead of 1,000 videos" in message and "--allow-subset" in message
    assert not (tmp_path / "out").exists()
    lines = write_manifests(*arguments, allow_subset=True)
    assert "300 videos, 6,000 captions; a subset: 300 instead of 9,000 videos" in lines[0]
    assert "train_7k: not made; it takes MSRVTT_data.json with MSRVTT_train.7k.csv" in lines[2]
    protocol = named_protocol("msrvtt_1ka")
    label = protocol.check(protocol.pairs(manifest(tmp_path / "out", "test_1ka")), True)
    assert label == "msrvtt_1ka [subset: 10 of 1000 videos, 10 of 1000 queries]"


def test_wrong_numbers_of_captions_and_more_videos_than_there_should_be(tmp_path):
    videos = touch(tmp_path / "videos", *(f"v{n}.mp4" for n in range(1001)))
    content = {f"v{n}": ["one", "two"] if n < 3 else ["one"] for n in range(1000)}
    arguments = (msrvtt.SPLITS, [dump(tmp_path / "test_JSFUSION.json", content)], videos, tmp_path)
    with pytest.raises(AnnotationError, match="2 instead of 1 captions of each of 3 videos"):
        write_manifests(*arguments, allow_subset=True)
    dump(tmp_path / "test_JSFUSION.json", {f"v{n}": "one" for n in range(1001)})
    with pytest.raises(AnnotationError, match="1,001 instead of 1,000 videos") as raised:
        write_manifests(*arguments, allow_subset=True)
    assert "--allow-subset" not in str(raised.value)


def test_listed_videos_without_captions_are_named(tmp_path):
    sentences = [{"video_id": f"v{n}", "caption": "text"} for n in range(8990) for _ in range(20)]
    dump(tmp_path / "MSRVTT_data.json", {"sentences": sentences})
    names = "\n".join(["video_id", *(f"v{n}" for n in range(9000))])
    (tmp_path / "MSRVTT_train.9k.csv").write_text(names)
    videos = touch(tmp_path / "videos", *(f"v{n}.mp4" for n in range(9000)))
    with pytest.raises(AnnotationError, match="no caption in .*10 of 9,000 videos: v8990, v8991"):
        write_manifests(msrvtt.SPLITS, [tmp_path], videos, tmp_path / "out")


@pytest.mark.parametrize("file", ["msrvtt_retrieval/test.json", "msrvtt/msrvtt_test.jsonl"])
def test_shared_lists_of_msrvtt_give_the_same_test_set(shared, tmp_path, file):
    path = shared / "annotations" / file
    entries = json.loads((shared / "annotations/msrvtt_retrieval/test.json").read_text())
    videos = touch(tmp_path / "videos", *(f"{entry['image']}.mp4" for entry in entries))
    write_manifests(msrvtt.SPLITS, [path], videos, tmp_path / "out")
    records = manifest(tmp_path / "out", "test_1ka")
    assert {r.id: list(r.captions) for r in records} == {e["image"]: e["caption"] for e in entries}
    protocol = named_protocol("msrvtt_1ka_9k")
    assert protocol.check(protocol.pairs(records)) == "msrvtt_1ka_9k"


def test_shared_test_list_of_lsmdc(shared, tmp_path):
    path = shared / "annotations/lsmdc_retrieval/test.json"
    entries = json.loads(path.read_text())
    files = [f"{e['image'].rpartition('_')[0]}/{e['image']}.avi" for e in entries]
    videos = touch(tmp_path / "videos", *files)
    write_manifests(lsmdc.SPLITS, [path], videos, tmp_path / "out")
    records = manifest(tmp_path / "out", "test")
    assert {r.id for r in records} == {e["image"] for e in entries}
    protocol = named_protocol("lsmdc")
    assert protocol.check(protocol.pairs(records)) == "lsmdc"


def test_shared_lists_of_msvd_have_all_captions_as_queries(shared, tmp_path):
    files = [shared / f"annotations/msvd/{name}.json" for name in ("test", "val")]
    names = [entry["video"] for file in files for entry in json.loads(file.read_text())]
    videos = touch(tmp_path / "videos", *(f"{name}.avi" for name in names))
    lines = write_manifests(msvd.SPLITS, files, videos, tmp_path / "out")
    assert "100 videos, 4,290 captions" in lines[0] and "670 videos, 27,763 captions" in lines[1]
    assert lines[2].startswith("train: not made; it takes raw-captions.pkl with train_list.txt")
    protocol = named_protocol("msvd")
    pairs = protocol.pairs(manifest(tmp_path / "out", "test"))
    assert len(pairs) == 27_763 and protocol.check(pairs) == "msvd"
    with pytest.raises(AnnotationError, match="670 instead of 1,000 videos"):
        write_manifests(msrvtt.SPLITS, files, videos, tmp_path / "wrong")


def test_msvd_of_the_pickle_of_words_and_the_lists(tmp_path):
    captions = {f"-v{n}_1_9": [["a", "man", "runs"], ["he", "runs"]] for n in range(1500)}
    (tmp_path / "raw-captions.pkl").write_bytes(pickle.dumps(captions))
    (tmp_path / "train_list.txt").write_text("".join(f"-v{n}_1_9\n" for n in range(1200)))
    videos = touch(tmp_path / "videos", *(f"-v{n}_1_9.avi" for n in range(1200)))
    write_manifests(msvd.SPLITS, [tmp_path], videos, tmp_path / "out")
    records = manifest(tmp_path / "out", "train")
    assert len(records) == 2400 and records[0].captions == ("a man runs",)


def test_a_pickle_runs_nothing(tmp_path):
    class Harm:
        def __reduce__(self):
            return print, ("harm",)

    (tmp_path / "raw-captions.pkl").write_bytes(pickle.dumps({"v": Harm()}))
    with pytest.raises(AnnotationError, match="builtins.print.*nothing was run"):
        read_captions(tmp_path / "raw-captions.pkl")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1, 2], "holds a list, not a list or mapping of videos"),
        (7, "holds a int"),
        ({1: ["a"]}, "the name of a video is 1, not text"),
        ({b"v": ["a"]}, "the name of a video is b'v', not text"),
        ({"v": 7}, "the captions of v are 7, not texts"),
        ({"v": [b"a"]}, "the captions of v are .*, not texts"),
        ({"v": [["a", 1]]}, "the captions of v are .*, not texts"),
        ({"v": [np.float32(1), np.zeros(2)]}, "the captions of v are .*, not texts"),
        ({"v": np.array(["a"])}, "the captions of v are .*, not texts"),
        ({"v": collections.Counter("a")}, "the captions of v are .*, not texts"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_pickle_of_something_else_is_an_error_in_words(tmp_path, content, said):
    path = tmp_path / "raw-captions.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(AnnotationError, match=f"{path}: {said}"):
        read_captions(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"(",
        b"]q\0h\0a.",
        b"](K\1K\2e" + b"2\x86" * 60 + b".",
        b"X\xff\xff\xff\x7fabc.",
        b"cnumpy\ndtype\n(VO\ntR.",
    ],
)
def test_a_broken_or_hostile_pickle_is_an_error_in_words(tmp_path, content):
    path = tmp_path / "raw-captions.pkl"
    path.write_bytes(content)
    with pytest.raises(AnnotationError, match=str(path)):
        read_captions(path)


@pytest.mark.slow
def test_activitynet_joins_sentences_and_finds_files_without_the_prefix(tmp_path):
    for name, count in (("train", 10_009), ("val_1", 4917)):
        content = {
            f"v_{name}{n}": {
                "duration": 12.5,
                "timestamps": [[0.0, 5.1], [5.1, 12.5]],
                "sentences": ["A man walks. ", " He sits  down."],
            }
            for n in range(count)
        }
        dump(tmp_path / f"{name}.json", content)
    dump(tmp_path / "train_ids.json", [f"v_train{n}" for n in range(10_009)])
    videos = touch(
        tmp_path / "videos",
        *(f"train{n}.mkv" for n in range(10_009)),
        *(f"v_val_1{n}.mp4" for n in range(4917)),
    )
    write_manifests(activitynet.SPLITS, [tmp_path], videos, tmp_path / "out")
    assert len(manifest(tmp_path / "out", "train")) == 10_009
    records = manifest(tmp_path / "out", "val1")
    assert records[0].captions == ("A man walks. He sits down.",)
    protocol = named_protocol("activitynet_val1")
    assert protocol.check(protocol.pairs(records)) == "activitynet_val1"


def test_didemo_joins_descriptions_in_the_order_of_the_file(tmp_path):
    for name, count in (("train", 8395), ("val", 1065), ("test", 1004)):
        entries = [
            {"video": f"1@N0_{name}{n}_ab.{suffix}", "description": text, "times": [[0, 1]]}
            for text in ("the dog runs", "it stops.")
            for n, suffix in ((n, "mov" if n % 2 else "AVI") for n in range(count))
        ]
        dump(tmp_path / f"{name}_data.json", entries)
    # Files keep the first suffix, append another to it, or replace it.
    kinds = ("{}.mov.mp4", "{}.avi", "{}.mp4")
    names = [f"1@N0_test{n}_ab" for n in range(1004)]
    videos = touch(
        tmp_path / "videos", *(kinds[n % 3].format(name) for n, name in enumerate(names))
    )
    lines = write_manifests(didemo.SPLITS, [tmp_path / "test_data.json"], videos, tmp_path / "out")
    assert "1,004 videos, 2,008 captions" in lines[0]
    records = manifest(tmp_path / "out", "test")
    assert [record.id for record in records] == names
    assert {record.captions for record in records} == {("the dog runs it stops.",)}
    protocol = named_protocol("didemo")
    assert protocol.check(protocol.pairs(records)) == "didemo"
    lines = write_manifests(
        didemo.SPLITS, [tmp_path], touch(videos, *(f"1@N0_{s}0_ab.mp4" for s in ("train", "val"))),
        tmp_path / "all", missing="drop",
    )  # fmt: skip
    assert "8,394 of 8,395 videos dropped" in lines[0] and "1,064 of 1,065" in lines[1]


def lsmdc_lines(movie: str, count: int, clips: int) -> str:
    times = "00.00.01.000\t00.00.02.000\t00.00.01.000\t00.00.03.000"
    return "".join(
        f'{movie}_00.{n % clips:06d}-00.01.886\t{times}\tSOMEONE says "no" {n}.\n'
        for n in range(count)
    )


@pytest.mark.slow
def test_lsmdc_counts_lines_of_which_some_share_a_clip(tmp_path):
    (tmp_path / "LSMDC16_annos_training.csv").write_text(lsmdc_lines("1_A", 101_079, 101_046))
    (tmp_path / "LSMDC16_annos_val.csv").write_text(lsmdc_lines("2_B", 7408, 7400))
    test = lsmdc_lines("3_C", 1000, 1000)
    (tmp_path / "LSMDC16_challenge_1000_publictect.csv").write_text(test)
    clips = [f"3_C/3_C_00.{n:06d}-00.01.886.avi" for n in range(1000)]
    videos = touch(
        tmp_path / "videos", "1_A_00.000000-00.01.886.mp4", "2_B_00.000007-00.01.886.mp4"
    )
    touch(videos, *clips)
    lines = write_manifests(lsmdc.SPLITS, [tmp_path], videos, tmp_path / "out", missing="drop")
    assert "1 videos, 2 captions; 101,045 of 101,046 videos dropped" in lines[0]
    assert manifest(tmp_path / "out", "train")[1].captions == ('SOMEONE says "no" 101046.',)
    assert len(manifest(tmp_path / "out", "test")) == 1000
    (tmp_path / "LSMDC16_annos_val.csv").write_text("a\tb\n")
    with pytest.raises(AnnotationError, match="line 1: 2 fields between tabs instead of 6"):
        write_manifests(lsmdc.SPLITS, [tmp_path], videos, tmp_path / "out")


@pytest.fixture
def thousand(tmp_path: pathlib.Path) -> tuple:
    """Arguments for a test set of 1,000 videos."""
    path = dump(tmp_path / "test_JSFUSION.json", {f"v{n}": ["text"] for n in range(1000)})
    videos = touch(tmp_path / "videos", *(f"v{n}.mp4" for n in range(1000)))
    return msrvtt.SPLITS, [path], videos, tmp_path / "out"


def test_videos_without_a_file_are_an_error_or_dropped_by_option(thousand):
    for n in range(0, 30, 3):
        (thousand[2] / f"v{n}.mp4").unlink()
    with pytest.raises(AnnotationError, match="no file for 10 of 1,000 videos: v0, v3, .*drop"):
        write_manifests(*thousand)
    lines = write_manifests(*thousand, missing="drop")
    assert "990 videos, 990 captions; 10 of 1,000 videos dropped" in lines[0]
    assert len(manifest(thousand[3], "test_1ka")) == 990


def test_no_video_at_all_is_an_error_even_where_missing_ones_are_dropped(thousand, tmp_path):
    other = touch(tmp_path / "other", "w.mp4")
    with pytest.raises(AnnotationError, match="not one of its videos has a file"):
        write_manifests(*thousand[:2], other, thousand[3], missing="drop")
    with pytest.raises(AnnotationError, match="holds no file that ends as a video"):
        write_manifests(*thousand[:2], touch(tmp_path / "texts", "a.txt"), thousand[3])
    with pytest.raises(AnnotationError, match="no such folder of videos"):
        write_manifests(*thousand[:2], tmp_path / "nowhere", thousand[3])


def test_two_files_of_one_video_are_an_error(thousand):
    touch(thousand[2], "small/v7.webm")
    with pytest.raises(AnnotationError, match=r"several files of one video: .*v7\.mp4, .*v7\.webm"):
        write_manifests(*thousand)


def test_paths_hold_when_the_manifest_folder_is_a_link(thousand, tmp_path):
    (tmp_path / "deep/disk").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "deep/disk")
    write_manifests(*thousand)
    assert len(manifest(tmp_path / "out", "test_1ka")) == 1000
    assert len(manifest(tmp_path / "deep/disk", "test_1ka")) == 1000


def test_annotations_that_are_not_there_or_not_one_of_the_known(thousand, tmp_path):
    with pytest.raises(AnnotationError, match="no such file or folder of annotations"):
        write_manifests(msrvtt.SPLITS, [tmp_path / "nothing"], *thousand[2:])
    other = dump(tmp_path / "other.json", {})
    with pytest.raises(AnnotationError, match="test_1ka: not made; it takes MSRVTT_JSFUSION_test"):
        write_manifests(msrvtt.SPLITS, [other], *thousand[2:])
    second = dump(tmp_path / "b/test_JSFUSION.json", {})
    with pytest.raises(AnnotationError, match="have one name"):
        write_manifests(msrvtt.SPLITS, [*thousand[1], second], *thousand[2:])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '[{"video": "v", "caption": "one"}, {"vi', "not JSON, or cut off"),
        ("a.json", '[{"video": "v", "title": "one"}]', "none of caption, .*holds video, title"),
        ("a.json", '[{"clip": "v", "caption": "one"}]', "none of video, .*holds clip, caption"),
        ("a.json", '{"v": 3}', "captions of v are 3, not texts"),
        ("a.json", '{"v": [3]}', "captions of v are .3., not texts"),
        ("a.json", '"text"', "holds a str, not a list or mapping of videos"),
        ("a.json", '{"v": "one", "v": "two"}', "an object has the key 'v' twice"),
        ("a.json", '{"v": ["half \\ud83d"]}', r"`v\[0\]` is not UTF-8 text: character 6"),
        ("a.json", "{\"v\": \"['a' 'b']\"}", "a caption of v must be a text, is a list or"),
        ("a.json", '{"v": [["a", 3]]}', "captions of v are .*, not texts"),
        ("a.json", "[" * 100_000, "not JSON"),
        ("a.jsonl", '{"video": "v", "caption": "x"}\n{', "line 2: not JSON"),
        ("a.csv", "video_id,sentence\nv,one,two\n", "line 2: must have 2 fields"),
        ("a.csv", "video_id,sentence,sentence\nv,one,two\n", "two columns `sentence`"),
        ("a.csv", "video_id;sentence\nv;one\n", "not by ';'"),
        ("a.csv", 'video_id,sentence\nv,"one\nw,two\n', "begins in line 2: is a quote"),
        ("a.txt", "version https://git-lfs.github.com/spec/v1\n", "is a git-lfs pointer"),
        ("a.csv", "video_id,title\nv,one\n", "holds video_id, title"),
        ("a.csv", b"video_id,sentence\nv,\xff\n", r"line 2: not UTF-8 \(byte 3"),
    ],
)
def test_files_of_another_form(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(AnnotationError, match=message):
        read_captions(path)


def test_blank_captions_and_videos_without_any_count_for_nothing(tmp_path):
    path = dump(tmp_path / "a.json", {"v": ["one", " \n"], "w": [""], "x": []})
    assert read_captions(path) == {"v": ["one"]}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("movie/1_A_00.23.23.000-00.23.28.886.avi", "1_A_00.23.23.000-00.23.28.886"),
        ("1_A_00.23.23.000-00.23.28.886", "1_A_00.23.23.000-00.23.28.886"),
        ("1@N0_2_ab.MOV.mp4", "1@N0_2_ab"),
        ("video7", "video7"),
    ],
)
def test_names_of_videos(text, name):
    assert video_name(text) == name


def test_command_line_writes_reports_and_says_what_is_wrong(thousand, monkeypatch, capsys):
    _, (annotations,), videos, out = thousand
    arguments = ["--annotations", annotations, "--videos", videos, "--out", out]
    monkeypatch.setattr(sys, "argv", ["msrvtt", *map(str, arguments)])
    main(msrvtt.__doc__, msrvtt.SPLITS)
    assert "1,000 videos, 1,000 captions (from test_JSFUSION.json)" in capsys.readouterr().out
    (videos / "v3.mp4").unlink()
    with pytest.raises(SystemExit):
        main(msrvtt.__doc__, msrvtt.SPLITS)
    assert "no file for 1 of 1,000 videos: v3" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--missing=drop"])
    main(msrvtt.__doc__, msrvtt.SPLITS)
    assert "999 videos" in capsys.readouterr().out


def test_names_that_several_videos_share_keep_their_folders(tmp_path):
    texts = ["a/1.mp4", "b\\1", "./a/1", "/c/2.mkv", "2.mp4", "x/3.mp4"]
    assert list(video_names(texts).values()) == ["a/1", "b/1", "a/1", "c/2", "2", "3"]
    found = read_captions(dump(tmp_path / "a.json", {"a/1.mp4": "one", "b/1.mp4": ["two"]}))
    assert found == {"a/1": ["one"], "b/1": ["two"]}
