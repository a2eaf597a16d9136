"""`vlt judge` with a local server that is slow, wrong, or dies half-way."""

import datetime
import json
import sys
import threading
import time

import pytest
from stand_in import StandIn

from vlt import judge
from vlt.judging import endpoint

TODAY = datetime.datetime.now(datetime.UTC).date().isoformat()
BENCHMARK = [
    {"video_name": "v_a", "Q": "What is it?", "A": "A dog."},
    {"video_name": "v_a", "Q": "Where is it?", "A": "In a park."},
    {"video_name": "v_b", "Q": "What is it?", "A": "A cat."},
]
PAIRS = [{"video_name": "v_a", "Q1": "What is it?", "Q2": "Which animal?", "A": "A dog."}]
QA = [
    {"id": n, "video_id": n // 2, "question": f"what is {n}?", "answer": f"thing {n}"}
    for n in range(8)
]


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(endpoint, "FIRST_WAIT", 0.001)
    found = StandIn()
    yield found
    found.shutdown()
    found.server_close()


@pytest.fixture
def files(tmp_path):
    """Names of the prediction and reference files of every set."""

    def dump(name, content):
        (tmp_path / name).write_text(json.dumps(content))
        return str(tmp_path / name)

    answered = [each | {"pred": "a dog"} for each in BENCHMARK]
    both = [each | {"pred1": "a dog", "pred2": "a hound"} for each in PAIRS]
    qa = [{"id": e["id"], "question": e["question"], "pred": "a thing 0"} for e in QA]
    return {
        "generic": [dump("generic.json", answered), dump("generic_qa.json", BENCHMARK)],
        "temporal": [dump("temporal.json", answered), dump("temporal_qa.json", BENCHMARK)],
        "consistency": [dump("pairs.json", both), dump("pairs_qa.json", PAIRS)],
        "qa": [dump("qa.json", qa), dump("test_qa.json", QA)],
    }


def run(capsys, out, files, *options, sets=("qa",)):
    """Runs the command: exit status, rows by criterion, and standard error."""
    given = [text for name in sets for text in (f"--{name}", *files[name])]
    status = judge.main([*given, "--out", str(out), "--json", *map(str, options)])
    told = capsys.readouterr()
    rows = [json.loads(line) for line in told.out.splitlines()]
    return status, {each["criterion"]: each for each in rows}, told.err


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def right(body, count):
    return '{"pred": "yes", "score": 4}'


def test_five_scores_and_who_gave_them(server, files, capsys, tmp_path):
    sets = ("generic", "temporal", "consistency")
    server.say = lambda body, count: (
        "```python\n{'score': 2}\n```" if "two similar" in body["messages"][0]["content"]
        else "{'score': 4}"
    )  # fmt: skip
    out = tmp_path / "out"
    status, rows, _ = run(
        capsys, out, files, "--endpoint", server.url, "--model", "judge", "--set", "temperature=0",
        sets=sets,
    )  # fmt: skip
    assert status == 0
    assert {name: row["score"] for name, row in rows.items()} == {
        "correctness": 4, "detail": 4, "context": 4, "temporal": 4, "consistency": 2,
        "mean of five": 3.6,
    }  # fmt: skip
    counted = ("questions", "asked", "scored", "missing", "judge", "date", "accuracy")
    assert [rows["detail"][key] for key in counted] == [3, 3, 3, 0, "judge-0613", TODAY, None]
    assert len(server.asked) == 3 * 3 + 3 + 1
    assert {(body["model"], body["temperature"]) for body in server.asked} == {("judge", 0)}
    asked = {(each["criterion"], each["id"]) for each in lines(out / "requests.jsonl")}
    assert ("detail", "a_1") in asked and ("consistency", "a_0") in asked and len(asked) == 13
    judge.main(["--consistency", *files["consistency"], "--out", str(tmp_path / "other")])
    assert "consistency" in capsys.readouterr().out


def test_requests_come_first_and_alone_without_a_judge(files, capsys, tmp_path):
    status, rows, _ = run(capsys, tmp_path / "out", files)
    assert status == 1 and rows["qa"]["scored"] == 0 and rows["qa"]["missing"] == 8
    assert rows["qa"]["judge"] == "unknown" and rows["qa"]["score"] is None
    [first, *rest] = lines(tmp_path / "out/requests.jsonl")
    assert first["id"] == "0" and len(rest) == 7
    assert "thing 0" in first["messages"][1]["content"]
    assert not (tmp_path / "out/answers.jsonl").exists()
    assert rows["qa"]["exact match"] == 12.5 and rows["qa"]["contains"] == 12.5


def test_a_judge_that_dies_half_way_is_taken_up_where_it_was(server, files, capsys, tmp_path):
    out = tmp_path / "out"
    server.say = lambda body, count: right(body, count) if count < 3 else None
    options = ("--endpoint", server.url, "--attempts", 2, "--parallel", 1)
    status, rows, told = run(capsys, out, files, *options)
    assert status == 1 and rows["qa"]["scored"] == 3 and rows["qa"]["missing"] == 5
    assert "the judge failed 5 times in a row" in told and "goes on from here" in told
    assert len(server.asked) == 3 + 5 * 2

    with (out / "answers.jsonl").open("a") as file:
        file.write('{"id": "3", "criter')  # as left by a process that was killed
    server.say, server.asked = right, []
    status, rows, told = run(capsys, out, files, *options)
    assert status == 0 and rows["qa"]["scored"] == 8 and len(server.asked) == 5
    assert len(lines(out / "answers.jsonl")) == 8
    status, _, told = run(capsys, out, files, *options)
    assert status == 0 and len(server.asked) == 5 and told.startswith("0 requests")


def test_an_endpoint_that_never_answers_is_soon_left(server, files, capsys, tmp_path):
    closing = threading.Event()
    server.say = lambda body, count: closing.wait(60) and None
    options = ("--endpoint", server.url, "--timeout", 0.2, "--attempts", 2, "--parallel", 2)
    started = time.monotonic()
    status, rows, told = run(capsys, tmp_path / "out", files, *options)
    assert status == 1 and rows["qa"]["scored"] == 0
    assert "the judge failed at the first 3 requests" in told and "timed out" in told
    closing.set()
    assert time.monotonic() - started < 10 and len(server.asked) <= 10


def test_a_slow_judge_is_waited_for_and_asked_several_things_at_once(
    server, files, capsys, tmp_path
):
    def slow(body, count):
        time.sleep(0.3)
        return right(body, count)

    server.say = slow
    started = time.monotonic()
    status, rows, _ = run(
        capsys, tmp_path / "out", files, "--endpoint", server.url, "--parallel", 8
    )
    assert status == 0 and rows["qa"]["scored"] == 8 and time.monotonic() - started < 8 * 0.3


def test_what_cannot_be_read_is_asked_again_within_bounds_and_listed(
    server, files, capsys, tmp_path
):
    wrong = ["I think it is fine", "{'score': 9}", "{'score': __import__('os')}", 500]
    server.say = lambda body, count: (
        wrong[count % 3] if "what is 5?" in body["messages"][1]["content"]
        else wrong[3] if count == 0 else right(body, count)
    )  # fmt: skip
    options = ("--endpoint", server.url, "--parallel", 1)
    status, rows, told = run(capsys, tmp_path / "out", files, *options)
    assert status == 1 and rows["qa"]["scored"] == 7 and rows["qa"]["missing"] == 1
    assert "replies without a score, 1 in all: qa of 5" in told
    [unread] = lines(tmp_path / "out/unread.jsonl")
    assert unread["id"] == "5" and unread["answer"] in wrong
    assert len(server.asked) == 1 + 7 + 3
    status, rows, _ = run(capsys, tmp_path / "out", files, *options)
    assert len(server.asked) == 11, "its tries are used up"
    server.say = right
    status, rows, _ = run(capsys, tmp_path / "out", files, *options, "--tries", 4)
    assert status == 0 and len(server.asked) == 12


def test_a_refusal_of_one_request_is_told_and_the_others_go_on(server, files, capsys, tmp_path):
    server.say = lambda body, count: (
        400 if "what is 5?" in body["messages"][1]["content"] else right(body, count)
    )
    status, rows, told = run(capsys, tmp_path / "out", files, "--endpoint", server.url,
                             "--parallel", 1)  # fmt: skip
    assert status == 1 and rows["qa"]["scored"] == 7
    assert "1 requests failed: 5:" in told and "status 400" in told


def test_a_first_request_that_is_refused_stops_nothing(server, files, capsys, tmp_path):
    server.say = lambda body, count: (
        400 if "what is 0?" in body["messages"][1]["content"] else right(body, count)
    )
    options = ("--endpoint", server.url, "--parallel", 1)
    status, rows, _ = run(capsys, tmp_path / "out", files, *options)
    assert status == 1 and rows["qa"]["scored"] == 7


def test_a_replay_and_a_command_are_judges(files, capsys, tmp_path):
    replies = [
        {"id": str(n), "criterion": "qa", "answer": f"{{'pred': 'no', 'score': {n % 3}}}",
         "judge": "old", "date": "2023-06-01"}
        for n in range(8)
    ]  # fmt: skip
    path = tmp_path / "replies.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in replies))
    for _ in range(2):
        status, rows, _ = run(capsys, tmp_path / "a", files, "--replay", path)
        assert status == 0 and rows["qa"]["accuracy"] == 0 and rows["qa"]["score"] == 7 / 8
        assert (rows["qa"]["judge"], rows["qa"]["date"]) == ("old", "2023-06-01")
    assert len(lines(tmp_path / "a/answers.jsonl")) == 8

    program = tmp_path / "program.py"
    program.write_text("import json, sys\nassert len(json.load(sys.stdin)) == 2\n"
                       "print({'pred': 'yes', 'score': 5})\n")  # fmt: skip
    line = f"{sys.executable} {program}"
    status, rows, _ = run(capsys, tmp_path / "b", files, "--command", line)
    assert status == 0 and rows["qa"]["accuracy"] == 100 and rows["qa"]["judge"] == line
    program.write_text("raise SystemExit('no')")
    status, rows, told = run(capsys, tmp_path / "c", files, "--command", line)
    assert status == 1 and "exit status 1: no" in told


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"id": "99", "criterion": "qa", "answer": "x"}', "a reply on qa to '99', which no"),
        ('{"id": "1", "criterion": "detail", "answer": "x"}', "a reply on detail to '1'"),
        ('{"id": 1, "criterion": "qa", "answer": "x"}', "line 1: id, criterion, answer must be"),
        ('{"id": "1"}', "line 1: must have `id`, `criterion` and `answer`"),
        ("[", "line 1: not JSON"),
    ],
)
def test_a_replay_of_something_else(files, capsys, tmp_path, line, reason):
    (tmp_path / "replies.jsonl").write_text(line + "\n")
    status, _, told = run(capsys, tmp_path / "o", files, "--replay", tmp_path / "replies.jsonl")
    assert status == 1 and reason in told


def test_a_folder_of_other_requests_is_refused(files, capsys, tmp_path):
    run(capsys, tmp_path / "out", files)
    status, _, told = run(capsys, tmp_path / "out", files, sets=("temporal",))
    assert status == 1 and "holds requests of other predictions" in told and "line 1" in told


def test_predictions_that_are_missing_are_counted(server, files, capsys, tmp_path):
    few = tmp_path / "few.jsonl"
    rows = [
        {"video": "clips/v_a.mp4", "question": "what is  IT?", "answer": "a dog"},
        {"video": "clips/b.mp4", "error": "broken"},
    ]
    few.write_text("".join(json.dumps(each) + "\n" for each in rows))
    found = {"temporal": [str(few), files["temporal"][1]]}
    status, rows, _ = run(
        capsys, tmp_path / "out", found, "--endpoint", server.url, sets=("temporal",)
    )
    assert status == 1
    counted = ("questions", "asked", "scored", "missing")
    assert [rows["temporal"][key] for key in counted] == [3, 1, 1, 2]


def test_published_errors_are_options(server, files, capsys, tmp_path):
    server.say = lambda body, count: "{'pred': 'yes and no', 'score': 4.8}"
    options = ("--endpoint", server.url, "--tries", 1)
    status, rows, told = run(capsys, tmp_path / "own", files, *options)
    assert rows["qa"]["scored"] == 0 and "must be yes or no" in told
    bugs = ("--published", "truncate", "--published", "yes_in_text")
    status, rows, _ = run(capsys, tmp_path / "published", files, *options, *bugs)
    assert (rows["qa"]["accuracy"], rows["qa"]["score"]) == (100, 4)
    assert rows["qa"]["published"] == ["truncate", "yes_in_text"]
    run(capsys, tmp_path / "one", files, sets=("consistency",))
    run(capsys, tmp_path / "two", files, "--published", "first_question_twice",
        sets=("consistency",))  # fmt: skip
    asked = [lines(tmp_path / name / "requests.jsonl")[0] for name in ("one", "two")]
    texts = [each["messages"][1]["content"] for each in asked]
    assert "Question 2: Which animal?" in texts[0] and "Question 2: What is it?" in texts[1]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--out", "o"], "one of --generic, --temporal, --consistency, --qa is needed"),
        (["--out", "o", "--qa", "a"], r"--qa: PREDICTIONS REFERENCES [ANSWERS], got 1"),
        (["--out", "o", "--temporal", "a", "b", "c"], "--temporal: PREDICTIONS REFERENCES, got 3"),
        (["--out", "o", "--qa", "a", "b", "--tries", "0"], "--tries must be >= 1"),
        (["--out", "o", "--qa", "a", "b", "--timeout", "nan"], "--timeout must be > 0"),
        (["--out", "o", "--qa", "a", "b", "--model", "m"], "are of an --endpoint"),
    ],
)
def test_arguments_that_do_not_fit(arguments, reason, capsys):
    with pytest.raises(SystemExit):
        judge.main(arguments)
    assert reason in capsys.readouterr().err


def test_a_key_is_not_shown(files, capsys, tmp_path):
    status, _, told = run(
        capsys, tmp_path / "o", files, "--endpoint", "http://localhost/v1", "--key-env", "sk-hush"
    )
    assert status == 1 and "no environment variable of the given name" in told
    assert "hush" not in told
