"""Training rows of dialogues, against what LLaVA trains on."""

import json

import numpy as np
import pytest

from vlt.data.text.chat_tokenizer import ChatTokenizer, Prompt
from vlt.data.text.dialogue_rows import training_rows
from vlt.data.text.prompts import END, VIDEO, Turn, render, template


@pytest.fixture(scope="module")
def golden(shared):
    return shared / "golden/chat"


@pytest.fixture(scope="module")
def tokenizer(golden):
    return ChatTokenizer.load(golden / "tokenizer")


def rows_of(tokenizer, name, dialogues, count):
    used = template(name)
    prompts = [tokenizer.encode(render(used, turns), used, [count]) for turns in dialogues]
    return training_rows(prompts, [f"row {n}" for n in range(len(prompts))])


def test_llava(golden, tokenizer):
    stored = np.load(golden / "llava_small.npz")
    dialogues = json.loads((golden / "llava_small_config.json").read_text())["train"]["dialogues"]
    turns = [[Turn(q, a, q.count(VIDEO)) for q, a in dialogue] for dialogue in dialogues]
    rows = rows_of(tokenizer, "vicuna_v1_1", turns, 17)
    for found, name in ((rows.ids, "input_ids"), (rows.labels, "labels")):
        np.testing.assert_array_equal(found, stored[f"train/{name}"])
    np.testing.assert_array_equal(rows.mask, stored["train/attention_mask"])
    assert (rows.video.max(1) == 16).all() and (rows.video >= 0).sum() == 2 * 17


@pytest.mark.parametrize(
    ("name", "end"), [("minigpt4_training", "###"), ("instructblip_training", END)]
)
def test_answers_apart_begin_with_a_space_of_their_own(tokenizer, name, end):
    rows = rows_of(tokenizer, name, [[Turn("What is it?", "A dog.", 1)]], 2)
    ended = [tokenizer.end_id] if end == END else []
    words = tokenizer.words("A dog." + end * (not ended)) + ended
    assert rows.labels[0][rows.labels[0] >= 0].tolist() == words


def prompt(length: int, answer: int, video: int = 0) -> Prompt:
    """A prompt whose answer begins at `answer` and whose first `video` tokens are the video's."""
    places = np.arange(length, dtype=np.int32)
    return Prompt(places + 5, np.where(places < video, places, -1), places >= answer)


def test_rows_are_cut_and_padded():
    rows = training_rows([prompt(9, 3), prompt(4, 2)], "ab", 6)
    assert rows.ids.tolist() == [[5, 6, 7, 8, 9, 10], [5, 6, 7, 8, 0, 0]]
    assert rows.labels.tolist() == [[-100] * 3 + [8, 9, 10], [-100, -100, 7, 8, -100, -100]]
    assert rows.mask.tolist() == [[1] * 6, [1] * 4 + [0] * 2]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (prompt(4, 4), "b: no token of the dialogue is of an answer to learn from$"),
        (prompt(9, 6), "b: no token .* from; its 9 tokens are cut to 6"),
        (prompt(9, 1, 7), "b: its 9 tokens are cut to 6, and the video's among them"),
    ],
)
def test_a_row_that_teaches_nothing_is_an_error(given, reason):
    with pytest.raises(ValueError, match=reason):
        training_rows([prompt(4, 2), given], "ab", 6)
