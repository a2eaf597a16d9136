"""A chat model's written or chosen answers in an evaluation are those that `vlt.load` gives."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from evaluated import clip, data, predictor

import vlt
from vlt.data.chat_batches import ChatBatches
from vlt.data.text.chat_tokenizer import ChatTokenizer
from vlt.evaluation import KINDS, ranked_answers
from vlt.evaluation.conversation import check_written_answers
from vlt.evaluation.ranked_answers import check_ranked_answers
from vlt.model_io.loading import load_folder

QUESTIONS = ("what colour is the circle ?", "which way does the circle move ?")
SEARCH = {"method": "greedy", "max_length": 6, "min_length": 0}
SECTION = {"protocol": "own_data", "allow_subset": False, "template": "", "search": SEARCH}
SECTION |= {"manifest": "clips.csv"}


def chat(workdir, devices=1):
    """The packaged chat model for two-frame videos: as loaded, and as predictor."""
    loaded = load_folder("tiny_chat", frames=2)
    made = predictor(loaded.module, workdir, devices)
    tokenizer = ChatTokenizer.load(loaded.tokenizer)
    made.tokenizer = ChatBatches(tokenizer, "plain", "train", loaded.module.slots(2), 48)
    return loaded, made


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """The packaged chat model for two-frame videos: as predictor and data, and as `vlt.load`'s."""
    loaded, made = chat(tmp_path_factory.mktemp("run"))
    side = loaded.module.spec.visual.image_size
    records = [
        SimpleNamespace(video=f"clip {n}", question=QUESTIONS[n % 2], answers=("red",), id=f"q{n}")
        for n in range(4)
    ]
    rows = data(records, side=side)
    frames = np.stack([clip(record.video, side) for record in records])
    return made, loaded.params, rows, vlt.load("tiny_chat", frames=2), frames


def found(parts, kind, section):
    made, params, rows, *_ = parts
    metrics = KINDS[kind].run(made, params, section, rows, 0)
    written = json.loads((made.workdir / f"answers-{rows.name}.json").read_text())
    assert [entry["id"] for entry in written] == ["q0", "q1", "q2", "q3"]
    return metrics, [entry["answer"] for entry in written]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["greedy", "beam"])
def test_written_answers_are_those_of_a_dialogue(parts, method):
    search = SEARCH | {"method": method} | ({"beams": 2} if method == "beam" else {})
    metrics, texts = found(parts, "written_answers", SECTION | {"search": search})
    *_, model, frames = parts
    asked = [QUESTIONS[n % 2] for n in range(4)]
    assert texts == model.generate(frames, asked, **search)
    assert any(texts)
    assert metrics["questions"] == 4 and metrics["protocol"].startswith("own_data")
    assert {*check_written_answers(SECTION, parts[2])} == metrics.keys() - {"protocol"}


@pytest.mark.slow
def test_ranked_answers_are_those_that_are_chosen(parts, tmp_path):
    listed = tmp_path / "answers.txt"
    listed.write_text("red\nblue\nto the left\ngreen\nit moves up\na circle\nno\nyes\ndown\n")
    section = SECTION | {"answers": str(listed)}
    metrics, texts = found(parts, "ranked_answers", section)
    *_, model, frames = parts
    each = [
        model.choose(frames[n : n + 1], QUESTIONS[n % 2], listed.read_text().split("\n")[:-1])[0]
        for n in range(4)
    ]
    assert texts == each
    assert {*check_ranked_answers(section, parts[2])} == metrics.keys() - {"protocol"}


def test_questions_are_padded_in_front_and_answers_behind(parts):
    speech, listed = parts[0].tokenizer, ["red", "to the left"]
    asked, names = ["what ?", *QUESTIONS], ["a", "b", "c"]
    given = ranked_answers._choices(speech, asked, listed, names)(np.array([2, 0]))
    assert given["prompt"].shape[0] == given["rest"].shape[0] == 2
    assert given["rest"].shape[1] == ranked_answers.AT_ONCE
    for row, record in enumerate((2, 0)):
        alone = speech.choices(asked[record], listed, names[record])
        n, length = len(alone.ids), alone.rest.shape[1]
        prompt, rest = given["prompt"][row], given["rest"][row]
        np.testing.assert_array_equal(prompt[-n:], np.stack([alone.ids, alone.video], 1))
        assert (prompt[:-n] == (0, -2)).all() and len(prompt) >= n + ranked_answers.SPARE
        np.testing.assert_array_equal(rest[:2, :length, 0], alone.rest)
        np.testing.assert_array_equal(rest[:2, :length, 1], alone.learned)
        assert not rest[2:].any() and not rest[:, length:].any() and rest[..., 1].any()


def test_what_cannot_be_is_told_before_anything_is_read(parts):
    rows = parts[2]
    with pytest.raises(ValueError, match=r"nucleus.*are not drawn"):
        check_written_answers(SECTION | {"search": SEARCH | {"method": "nucleus"}}, rows)
    with pytest.raises(ValueError, match="template='plane'.*plain"):
        check_written_answers(SECTION | {"template": "plane"}, rows)
    with pytest.raises(ValueError, match="msvd_qa.* 4 questions instead of 13157"):
        check_written_answers(SECTION | {"protocol": "msvd_qa"}, rows)
    with pytest.raises(ValueError, match="q0: a prompt of .* tokens; model.context=20"):
        made = parts[0].tokenizer
        short = ChatBatches(made.tokenizer, "plain", "train", 30, 20)
        short.questions([QUESTIONS[0]], ["q0"])
    with pytest.raises(ValueError, match="q0: with its answer, .* tokens; model.context=20"):
        short.choices(QUESTIONS[0], ["red", "green"], "q0")
    tight = ChatBatches(parts[0].tokenizer.tokenizer, "plain", "train", 30, 47)
    assert tight.answered([QUESTIONS[0]], ["red"], ["q0"])[0].shape == (1, 47)
    with pytest.raises(ValueError, match="q1: with its answer, .* tokens; model.context=47"):
        tight.answered([QUESTIONS[0]] * 2, ["red", "red and " * 9], ["q0", "q1"])
