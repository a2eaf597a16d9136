"""MSRVTT-QA's questions and answers as manifests."""

import csv
import json
import pathlib

import pytest

from data_pipelines.annotation_files import AnnotationError
from data_pipelines.msrvtt_qa import SPLITS, write_questions_and_answers
from data_pipelines.question_files import (
    Question,
    frequent_answers,
    read_answers,
    read_questions,
)
from vlt.data.manifests.manifest import read_classes, read_manifest
from vlt.evaluation.protocols import named_protocol

COUNTS = {"train": 158_581, "val": 12_278, "test": 72_821}
VIDEOS = {"train": range(6513), "val": range(6513, 7010), "test": range(7010, 10_000)}


def dump(path: pathlib.Path, content: object) -> pathlib.Path:
    path.write_text(json.dumps(content))
    return path


def videos(folder: pathlib.Path, numbers: range) -> pathlib.Path:
    (folder / "videos").mkdir(exist_ok=True)
    for number in numbers:
        (folder / f"videos/video{number}.mp4").touch()
    return folder / "videos"


def made(
    root: pathlib.Path, counts: dict[str, int], count: int, **options: object
) -> tuple[pathlib.Path, list[str]]:
    """Manifests from MSRVTT-QA's own files, without a list of answers, and the lines reported."""
    first = 0
    for name, asked in counts.items():
        questions = [
            {
                "answer": f"answer {n % 4500 if n % 7 else 4499}",
                "category_id": 14,
                "id": first + n,
                "question": f"what is {n}?",
                "video_id": VIDEOS[name][n % len(VIDEOS[name])],
            }
            for n in range(asked)
        ]
        dump(root / f"{name}_qa.json", questions)
        first += asked
    folder = videos(root, range(count))
    return root, write_questions_and_answers(SPLITS, [root], folder, root / "out", **options)


@pytest.mark.slow
def test_counts_and_rows_of_the_whole_set(tmp_path):
    root, lines = made(tmp_path, COUNTS, 10_000)
    assert [line.partition(": ")[2] for line in lines] == [
        "6,513 videos, 158,581 questions (from train_qa.json)",
        "497 videos, 12,278 questions (from val_qa.json)",
        "2,990 videos, 72,821 questions (from test_qa.json)",
        "4,000 answers (from train_qa.json)",
    ]
    records = read_manifest(root / "out/test.jsonl", check_videos=False)
    protocol = named_protocol("msrvtt_qa")
    assert protocol.check(protocol.pairs(records)) == "msrvtt_qa"
    assert json.loads((root / "out/val.jsonl").read_text().partition("\n")[0]) == {
        "id": "158581",
        "video": "../videos/video6513.mp4",
        "question": "what is 0?",
        "answer": "answer 4499",
    }


def test_answers_without_a_list_are_the_most_frequent_of_training(tmp_path):
    made(tmp_path, {"train": 9000}, 100, allow_subset=True, missing="drop")
    answers = read_classes(tmp_path / "out/answers.txt")
    assert len(answers) == 4000 and answers[0] == "answer 4499"
    asked = [Question("why?", (answer,), "") for answer in ("a", "b", "c", "b", "c", "d")]
    assert frequent_answers({"v": asked[:2], "w": asked[2:]}, 3) == ["b", "c", "a"]


def test_shared_files_are_a_subset_with_the_whole_list_of_answers(shared, tmp_path):
    annotations = shared / "annotations/msrvtt_qa"
    folder = videos(tmp_path, range(6513, 7010))
    with pytest.raises(AnnotationError, match="val: 500 instead of 12,278 questions.*--allow-subs"):
        write_questions_and_answers(SPLITS, [annotations], folder, tmp_path / "out")
    lines = write_questions_and_answers(
        SPLITS, [annotations], folder, tmp_path / "out", allow_subset=True
    )
    assert "500 questions; a subset: 500 instead of 12,278 questions" in lines[0]
    assert "(from MSRVTT-QA_val_qa.first500.json)" in lines[0]
    assert "4,000 answers (from answer_list.json)" in lines[-1]
    stated = json.loads((annotations / "answer_list.json").read_text())
    assert read_classes(tmp_path / "out/answers.txt") == stated
    assert read_answers(annotations / "MSRVTT-QA_vocab.json") == stated
    (record, *_) = read_manifest(tmp_path / "out/val.jsonl")
    assert (record.id, record.question) == ("158581", "what are three people sitting on?")
    assert record.answers == ("couch",) and record.video.endswith("video6513.mp4")


def test_csv_and_json_agree_where_the_answer_is_listed(shared):
    folder = shared / "annotations/msrvtt_qa"
    listed = set(json.loads((folder / "answer_list.json").read_text()))
    table, every = (
        {q.id: (video, q.text, q.answers) for video, asked in questions.items() for q in asked}
        for questions in (
            read_questions(folder / "MSRVTT-QA_val.first500.csv"),
            read_questions(folder / "MSRVTT-QA_val_qa.first500.json"),
        )
    )
    both = table.keys() & every.keys()
    assert len(both) > 450 and all(table[each] == every[each] for each in both)
    assert both == {each for each, (_, _, answers) in every.items() if answers[0] in listed}


def test_lists_with_names_of_videos_and_several_answers(tmp_path):
    path = dump(tmp_path / "a.json", [{"video": "v.mp4", "question": "why?", "answer": ["a", "b"]}])
    (asked,) = read_questions(path)["v"]
    assert asked.columns() == {"question": "why?", "answer": ["a", "b"]} and asked.id == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            [{"video_id": 3, "question": "why?"}],
            "needs `question`, `answer`.*holds video_id, quest",
        ),
        ([{"question": "why?", "answer": "a"}], "one of video, image, video_id; it holds question"),
        ([{"video_id": 3, "question": " ", "answer": "a"}], "blank or no text"),
        (
            [{"video_id": 3, "question": "why?", "answer": "['a' 'b']"}],
            "no text: it must be a text, ",
        ),
        ([{"video_id": 3, "question": ["why?"], "answer": "a"}], "blank or no text"),
        ([{"video_id": 3, "question": "why?", "answer": []}], "blank or no text"),
        ({"video3": "why?"}, "holds an object, not a list of questions"),
        (["why?"], "it holds 'why"),
    ],
)
def test_files_of_another_form(tmp_path, content, message):
    with pytest.raises(AnnotationError, match=message):
        read_questions(dump(tmp_path / "a.json", content))


def test_lists_of_answers_of_another_form_or_length(tmp_path):
    with pytest.raises(AnnotationError, match="holds no list of answers"):
        read_answers(dump(tmp_path / "answer_list.json", [1, 2]))
    for answers in (["man", "a\0"], ["man", "[]"], ["man", " "], {"man": "x", "boy": 1}):
        with pytest.raises(AnnotationError, match="holds no list of answers|is a NUL"):
            read_answers(dump(tmp_path / "answer_list.json", answers))
    assert read_answers(dump(tmp_path / "answer_list.json", [" a\nman "])) == ["a man"]
    with pytest.raises(AnnotationError, match="1 answers come twice: man"):
        read_answers(dump(tmp_path / "answer_list.json", ["man", "boy", "man"]))
    dump(tmp_path / "answer_list.json", ["man", "boy"])
    with (tmp_path / "MSRVTT-QA_val.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["question", "answer", "category_id", "video_id", "id", "type"])
        table.writerow(["what, then?", "man", 1, 6513, 158_581, 0])
    folder = videos(tmp_path, range(6513, 6514))
    arguments = (SPLITS, [tmp_path], folder, tmp_path / "out")
    with pytest.raises(AnnotationError, match="2 instead of 4,000 answers in .*answer_list.json"):
        write_questions_and_answers(*arguments)
    write_questions_and_answers(*arguments, allow_subset=True)
    assert read_manifest(tmp_path / "out/val.jsonl")[0].question == "what, then?"
    (tmp_path / "answer_list.json").unlink()
    lines = write_questions_and_answers(*arguments, allow_subset=True)
    assert lines[-1].startswith("answers.txt: not made; it takes answer_list.json")
