"""VideoInstruct-100K's and LLaVA's dialogues as manifests."""

import json
import pathlib

import pytest

from data_pipelines.annotation_files import AnnotationError
from data_pipelines.dialogue_files import read_dialogues
from data_pipelines.video_instruct import write_dialogues
from vlt.data.manifests.manifest import read_manifest

HUMAN = {"from": "human", "value": "<image>\nWhat is it?"}
GPT = {"from": "gpt", "value": "A dog."}


def dump(path: pathlib.Path, content: object) -> pathlib.Path:
    path.write_text(json.dumps(content))
    return path


def test_videoinstruct_and_llava(tmp_path):
    for name in ("v_one.mp4", "two.mkv"):
        (tmp_path / name).touch()
    pairs = [("v_one", "Who?", "I."), ("two", "Why?", "So."), ("v_one", "What?", "It.")]
    own = [{"q": q, "a": a, "video_id": video} for video, q, a in pairs]
    dump(tmp_path / "VideoInstruct100K.json", own)
    spoken = [{"id": 5, "video": "two.pkl", "conversations": [GPT, HUMAN, GPT]}]
    dump(tmp_path / "llava.json", spoken)
    lines = write_dialogues((), [tmp_path], tmp_path, tmp_path / "out")
    assert [line.partition(": ")[2] for line in lines] == [
        "2 videos, 3 dialogues (from VideoInstruct100K.json)",
        "1 videos, 1 dialogues (from llava.json)",
    ]
    rows = [json.loads(x) for x in (tmp_path / "out/VideoInstruct100K.jsonl").open()]
    found = {row["id"]: row["conversations"][0]["value"] for row in rows}
    assert found == {
        "v_one#0": "Who?\n<video>",
        "v_one#1": "What?\n<video>",
        "two#0": "<video>\nWhy?",
    }
    [record] = read_manifest(tmp_path / "out/llava.jsonl")
    assert record.id == "5" and record.turns[0].question == "<video>\nWhat is it?"
    [line] = write_dialogues((), [tmp_path / "llava.json"], tmp_path, tmp_path / "one")
    assert line.startswith(str(tmp_path / "one/train.jsonl"))


def test_ids_that_come_twice_are_not_kept(tmp_path):
    row = {"id": "1", "image": "coco/1.jpg", "conversations": [HUMAN, GPT]}
    path = dump(tmp_path / "a.json", [row, row])
    assert [each.id for each in read_dialogues(path)["1"]] == ["", ""]


def test_videos_of_one_name_are_those_of_the_entries_folders(tmp_path):
    entries = [
        {"video": f"{folder}/1.mp4", "conversations": [["What?", folder]]} for folder in "ab"
    ]
    path = dump(tmp_path / "llava.json", entries)
    for folder in ("videos/a", "videos/xb"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "1.mp4").touch()
    arguments = ((), [path], tmp_path / "videos", tmp_path / "out")
    with pytest.raises(AnnotationError, match="no file for 1 of 2 videos: b/1"):
        write_dialogues(*arguments)
    (tmp_path / "videos/xb").rename(tmp_path / "videos/b")
    write_dialogues(*arguments)
    records = read_manifest(tmp_path / "out/train.jsonl")
    assert [(r.id, r.video.rpartition("videos/")[2], r.turns[0].answer) for r in records] == [
        ("a/1#0", "a/1.mp4", "a"),
        ("b/1#0", "b/1.mp4", "b"),
    ]
    (tmp_path / "videos/a/1.mp4").unlink()
    write_dialogues(*arguments, missing="drop")
    assert [r.id for r in read_manifest(tmp_path / "out/train.jsonl")] == ["b/1#0"]


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"q": "a"}, "holds no list of dialogues"),
        ([{"q": "a", "a": "b"}], "entry 1 must have `q`, `a`, `video_id`, or .* it holds q, a"),
        ([3], "it holds 3"),
        ([{"conversations": [HUMAN, GPT]}], "entry 1 must have"),
        ([{"q": "a", "a": 3, "video_id": "v"}], "entry 1: `a` must be text, is 3"),
        ([{"q": "a", "a": " ", "video_id": "v"}], "of v: the dialogue entry 2 must be text"),
        ([{"q": "a", "a": "b", "video_id": 4}], "entry 1 names no video: 4"),
        ([{"image": "v", "conversations": [HUMAN]}], "ends with a question"),
        ([{"image": "v", "conversations": None}], "must be a list of"),
        ([{"image": "v", "conversations": [HUMAN, "x"]}], "entry 2 must have `from`"),
    ],
)  # fmt: skip
def test_what_is_no_file_of_dialogues(tmp_path, entries, reason):
    with pytest.raises(AnnotationError, match=reason):
        read_dialogues(dump(tmp_path / "a.json", entries))


def test_files_of_one_name_that_nothing_takes_are_no_matter(tmp_path):
    (tmp_path / "v.mp4").touch()
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "README.md").touch()
    dump(tmp_path / "one/a.json", [{"q": "Who?", "a": "I.", "video_id": "v"}])
    folders = [tmp_path / "one", tmp_path / "two"]
    assert len(write_dialogues((), folders, tmp_path, tmp_path / "out")) == 1
    dump(tmp_path / "two/a.json", [])
    with pytest.raises(AnnotationError, match="one/a.json and .*two/a.json have one name"):
        write_dialogues((), folders, tmp_path, tmp_path / "out")


def test_files_that_make_no_manifest(tmp_path):
    (tmp_path / "a.txt").touch()
    with pytest.raises(AnnotationError, match="no file ends in .json or .jsonl: a.txt"):
        write_dialogues((), [tmp_path], tmp_path, tmp_path / "out")
    for name in ("a.json", "a.jsonl"):
        (tmp_path / name).touch()
    with pytest.raises(AnnotationError, match="both make a.jsonl"):
        write_dialogues((), [tmp_path], tmp_path, tmp_path / "out")
