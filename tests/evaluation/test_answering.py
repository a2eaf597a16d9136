"""Ranked and generated answers: counted right, written to file, unread videos left out."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from evaluated import Words, clip, data, predictor
from small_retriever import TEXT, VISUAL, params

from vlt.evaluation import answering
from vlt.evaluation.protocols import ProtocolError
from vlt.models.answerer import Answerer
from vlt.models.generation import generate
from vlt.models.search import Search
from vlt.models.spec import BlipSpec

ANSWERS = [f"{first} {second}" for first in range(3, 18) for second in (4, 11)]
SECTION = {"protocol": "moving_shapes_qa", "allow_subset": False, "answers": "", "rank": 8}
SECTION |= {"manifest": "questions.jsonl"}
SECTION |= {"label_smoothing": 0.1, "search": {"method": "beam", "beams": 2, "max_length": 5}}
SECTION["search"]["min_length"] = 1
UNREAD = 2


@pytest.fixture(autouse=True)
def _protocol(monkeypatch):
    from vlt.evaluation.protocols import PROTOCOLS, Protocol

    entry = Protocol("moving_shapes_qa", None, 10, False, "this test", texts="questions")
    monkeypatch.setitem(PROTOCOLS, entry.name, entry)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    text = dataclasses.replace(TEXT, context=8)
    model = Answerer(BlipSpec("answerer", VISUAL, text))
    return predictor(model, tmp_path_factory.mktemp("run")), params(model)


def records(answers=None):
    rng = np.random.default_rng(0)
    rows = []
    for index in range(10):
        question = " ".join(map(str, rng.integers(3, 18, 1 + index % 4)))
        own = ("no such answer",) if answers is None else (answers[index].replace(" ", "  "), "x")
        rows.append(
            SimpleNamespace(
                video=f"clip {index // 2}", question=question, answers=own, id=f"q{index}"
            )
        )
    return rows


def evaluate(parts, section, answers=None):
    rows = data(records(answers), (UNREAD,))
    found = answering.question_answering(*parts, section, rows, 0)
    return found, json.loads((parts[0].workdir / "answers-test.json").read_text())


def states(parts):
    """States and mask of the questions whose videos can be read."""
    kept = [row for i, row in enumerate(records()) if i != UNREAD]
    video = np.stack([clip(row.video) for row in kept])
    ids = Words()([row.question for row in kept])
    read = jax.jit(lambda p, *x: answering.read_question(parts[0].module, p, *x))
    return read(parts[1], video, ids)


def check(parts, section, expected):
    """Checks what is written, and the accuracy if none, all or a third of the answers are true."""
    found, written = evaluate(parts, section)
    assert found == {"accuracy": 0.0, "questions": 9, "protocol": "moving_shapes_qa"}
    assert [row["answer"] for row in written] == expected
    assert [row["id"] for row in written] == [f"q{i}" for i in range(10) if i != UNREAD]
    assert written[0]["question"] == records()[0].question
    true = [*expected[:UNREAD], "unread", *expected[UNREAD:]]
    assert evaluate(parts, section, true)[0]["accuracy"] == 100
    third = [answer if index < 4 else "wrong" for index, answer in enumerate(true)]
    assert evaluate(parts, section, third)[0]["accuracy"] == pytest.approx(100 / 3)


def test_best_of_given_answers(parts, tmp_path):
    path = tmp_path / "answers.txt"
    path.write_text("\n".join(ANSWERS) + "\n")
    ids = Words()(ANSWERS)
    best = answering.rank(parts[0].module, parts[1], *states(parts), ids, 8, 0.1)
    expected = [ANSWERS[index] for index in best]
    assert len(set(expected)) > 1
    check(parts, SECTION | {"answers": str(path)}, expected)


@pytest.mark.slow
def test_written_answers(parts):
    read, mask = states(parts)
    search = Search(**SECTION["search"])
    start = np.ones((9, 1), np.int32)
    ids = generate(parts[0].module, parts[1], read, start, search, source_bias=mask)
    expected = Words().decode(np.asarray(ids)[:, 1:])
    assert len(set(expected)) > 1
    check(parts, SECTION, expected)


def test_other_number_of_questions_is_refused(parts):
    section = SECTION | {"protocol": "msrvtt_qa"}
    with pytest.raises(ProtocolError, match="10 questions instead of 72821"):
        evaluate(parts, section)
