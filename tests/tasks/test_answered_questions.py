"""Questions, true answers and predictions, from the kinds of files that people have."""

import json

import pytest

from vlt import score
from vlt.command_line.score import parse
from vlt.tasks.answer_metrics import answer_metrics, contains, exact_match, plain, token_f1
from vlt.tasks.answered_questions import read_answered, read_asked
from vlt.tasks.caption_metrics import ScoringError


@pytest.fixture
def dump(tmp_path):
    def write(name, content):
        path = tmp_path / name
        lines = "".join(json.dumps(each) + "\n" for each in content)
        path.write_text(lines if path.suffix == ".jsonl" else json.dumps(content))
        return path

    return write


ACTIVITYNET = [
    {"video_name": "b", "question": "why?", "question_id": "v_b_1"},
    {"video_name": "b", "question": "who?", "question_id": "v_b_2"},
]


def test_activitynet_has_its_answers_in_a_file_of_their_own(dump):
    answers = [{"answer": "so", "question_id": "v_b_1"}, {"answer": "None", "question_id": "v_b_2"}]
    paths = [dump("test_q.json", ACTIVITYNET), dump("test_a.json", answers)]
    first, second = read_asked(paths)
    assert (first.id, first.video, first.questions, first.answers) == (
        "v_b_1",
        "b",
        ("why?",),
        ("so",),
    )
    assert second.answers == ("None",)
    with pytest.raises(ScoringError, match="entry 1 is of 'v_b_2', not of 'v_b_1'"):
        read_asked([paths[0], dump("a.json", answers[::-1])])
    with pytest.raises(ScoringError, match="2 questions, .* 1 answers"):
        read_asked([paths[0], dump("a.json", answers[:1])])


def test_a_manifest_and_what_an_evaluation_wrote(dump):
    rows = [
        {"video": "c/a.mp4", "question": "who?", "answer": ["he", "him"]},
        {"video": "c/a.mp4", "question": "why?", "answer": "so"},
    ]
    asked = read_asked([dump("m.jsonl", rows)])
    assert [each.id for each in asked] == ["a_0", "a_1"] and asked[0].answers == ("he", "him")
    written = [{"id": "c/a.mp4", "question": "why?", "answer": "because"}]
    assert read_answered(dump("answers.json", written), asked) == {"a_1": ("because",)}
    named = read_asked([dump("n.jsonl", [row | {"id": n} for n, row in enumerate(rows)])])
    written = [{"id": 1, "question": "why?", "answer": "because"}]
    assert read_answered(dump("answers.json", written), named) == {"1": ("because",)}


def test_equal_questions_about_a_video_are_told_apart_by_their_order(dump):
    asked = read_asked(
        [dump("a.json", [{"video_name": "v_x.mp4", "Q": "a?", "A": c} for c in "bc"])]
    )
    given = [{"video_name": "v_x", "Q": "a?", "A": c, "pred": c.upper()} for c in "bc"]
    assert read_answered(dump("p.json", given), asked) == {"x_0": ("B",), "x_1": ("C",)}


def test_videos_of_one_name_are_told_apart_by_their_paths(dump, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"video": f"{c}/1.mp4", "question": "who?", "answer": c} for c in ("cat", "dog")]
    of_manifest, of_list = read_asked([dump("m.jsonl", rows)]), read_asked([dump("m.json", rows)])
    answered = [
        {"video": row["video"], "question": "who?", "answer": row["answer"]} for row in rows
    ]
    absolute = [each | {"video": str(tmp_path / each["video"])} for each in answered]
    named = [
        {"id": each["video"], "pred": each["answer"]} | {"question": "who?"} for each in answered
    ]
    expected = {"1_0": ("cat",), "1_1": ("dog",)}
    for asked, content in (
        (of_manifest, answered), (of_manifest, absolute), (of_manifest, named), (of_list, answered)
    ):  # fmt: skip
        assert read_answered(dump("p.json", content[::-1]), asked) == expected
        failed = {"video": rows[0]["video"], "question": "who?", "error": "broken"}
        for error in (failed, {"video": rows[0]["video"], "error": "broken"}):
            found = read_answered(dump("p.json", [error, content[1]]), asked)
            assert found == {"1_1": ("dog",)}
    for asked in (of_manifest, of_list):
        bare = [each | {"video": "1.mp4"} for each in answered]
        with pytest.raises(
            ScoringError, match="entry 1: '1.mp4' may be any of .*cat/1.*dog/1.*ids"
        ):
            read_answered(dump("p.json", bare), asked)


def test_an_error_takes_the_place_of_an_answer(dump):
    asked = read_asked([dump("a.json", [{"video": "x", "Q": "a?", "A": c} for c in "bc"])])
    given = [{"video": "x", "Q": "a?"} | told for told in ({"error": "broken"}, {"pred": "C"})]
    assert read_answered(dump("p.json", given), asked) == {"x_1": ("C",)}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"a": 1}, "must hold a list of questions"),
        ([], "holds no questions"),
        ([3], "entry 1 must be an object"),
        ([{"question": "a"}], "entry 1 must have `question` or `Q`, and .*; it has question"),
        ([{"Q1": "a", "A": "b"}], "must have `question`"),
        ([{"Q": "", "A": "b"}], "a question or an answer must be text"),
        ([{"Q": "a", "A": 3}], "a question or an answer must be text"),
        ([{"id": 1, "Q": "a", "A": "b"}, {"id": "1", "Q": "b", "A": "b"}], "1 ids come twice: 1"),
    ],
)
def test_what_is_no_file_of_references(dump, content, reason):
    with pytest.raises(ScoringError, match=reason):
        read_asked([dump("a.json", content)])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([], "holds no predictions"),
        ([{"error": "x", "video": "b"}], "holds no predictions"),
        ([{"id": "v_b_1"}], "entry 1 must have `pred` or `answer`"),
        ([{"pred": "x"}], "and its `id` or question"),
        ([{"id": "v_b_1", "pred": 3}], "a prediction must be text, is int: 3"),
        ([{"id": "v_b_1", "pred": "a\0"}], "`.0..pred` is not text"),
        ([{"id": "v_b_1", "pred": "a" * 100_001}], "over 100,000"),
        ([{"id": "v_b_1", "pred": "x"}] * 2, "entry 2: a second answer to v_b_1"),
        ([{"id": "v_b_3", "pred": "x"}], "questions than the references have, 1 in all: v_b_3"),
        ([{"id": "v_b_1", "question": "who?", "pred": "x"}], "v_b_1 asks 'why.' there, 'who"),
        ([{"video": "c.mp4", "question": "why?", "pred": "x"}], "other questions than .* c: 'why"),
    ],
)  # fmt: skip
def test_predictions_that_do_not_fit(dump, content, reason):
    answers = dump("a.json", [{"answer": "so"}] * 2)
    asked = read_asked([dump("q.json", ACTIVITYNET), answers])
    with pytest.raises(ScoringError, match=reason):
        read_answered(dump("p.json", content), asked)


def test_an_empty_prediction_is_one(dump):
    asked = read_asked([dump("q.json", [{"question": "a?", "answer": "b", "id": 1}])])
    assert read_answered(dump("p.json", [{"id": 1, "pred": ""}]), asked) == {"1": ("",)}


def test_scores_without_a_judge():
    assert plain("The  man's dog, an Old one!") == "mans dog old one"
    assert exact_match("A dog.", "dog") == 1 and exact_match("dogs", "dog") == 0
    assert contains("It is a dog, surely", "the dog") == 1
    assert contains("a woman", "man") == 0, "words, not letters"
    assert contains("dog", "the") == 0 and contains("", "the") == 1
    assert token_f1("a red dog runs", "red dog") == pytest.approx(2 * 2 / 5)
    assert token_f1("dog dog", "dog") == pytest.approx(2 / 3)
    assert token_f1("", "the") == 1 and token_f1("dog", "") == 0 and token_f1("dog", "cat") == 0
    scores = answer_metrics(
        {"1": "a dog", "2": "blue"}, {"1": ["cat", "Dog"], "2": ["red"], "3": []}
    )
    assert scores == {"exact match": 50, "contains": 50, "token F1": 50}


@pytest.mark.slow
def test_the_command_scores_answers(dump, capsys):
    questions = [
        {"id": n, "question": f"{n}?", "answer": a} for n, a in enumerate(("dog", "a cat"))
    ]
    references = str(dump("qa.json", questions))
    given = [
        {"id": n, "question": f"{n}?", "answer": text} for n, text in enumerate(("A dog.", "x"))
    ]
    score.run(parse("score", [str(dump("p.json", given)), references, "--json"]))
    found = json.loads(capsys.readouterr().out)
    assert found["exact match"] == 50 and found["token F1"] == 50 and found["BLEU-1"] > 0
    score.run(parse("score", [str(dump("p.json", given[:1])), references, "--intersection"]))
    told = capsys.readouterr()
    assert "1 answers against 1 references" in told.out and "1 of 2 references" in told.err
    with pytest.raises(SystemExit, match="1 ids without a prediction: 1"):
        score.run(parse("score", [str(dump("p.json", given[:1])), references]))
