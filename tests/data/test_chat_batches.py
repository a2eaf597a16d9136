"""Dialogues as batches for a chat model."""

import numpy as np
import pytest

from vlt.data import moving_shapes
from vlt.data.chat_batches import VIDEO_SLOT, ChatBatches
from vlt.data.text.chat_tokenizer import ChatTokenizer
from vlt.data.text.dialogue_rows import NO_LABEL
from vlt.data.text.instructions import Instructions
from vlt.data.text.prompts import Turn

SLOTS = 4
ASKED = ("which way does the circle move ?", "it moves left")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("chat_tokenizer")
    moving_shapes.write_chat_tokenizer(made)
    return made


def batches(folder, template="plain", context=32, instructions=None) -> ChatBatches:
    tokenizer = ChatTokenizer.load(folder)
    return ChatBatches(tokenizer, template, "train", SLOTS, context, instructions)


def test_places_of_a_video_are_slots_and_answers_are_labelled(folder):
    ids, labels = batches(folder)([[Turn(*ASKED, videos=1)]], ["a"])
    assert ids.shape == labels.shape == (1, 32)
    slots = np.flatnonzero(ids[0] == VIDEO_SLOT)
    assert slots.tolist() == list(range(slots[0], slots[0] + SLOTS))
    counted = np.flatnonzero(labels[0] != NO_LABEL)
    assert len(counted) == 4  # three words and the end token
    assert (labels[0, counted] == ids[0, counted]).all()
    assert counted[0] > slots[-1] and ids[0, counted[-1]] == 2
    assert not ids[0, counted[-1] + 1 :].any()


def test_what_no_video_is_said_of_has_no_slots(folder):
    ids, labels = batches(folder, "words")([[Turn(*ASKED, videos=1)]], ["a"])
    assert (ids >= 0).all() and (labels != NO_LABEL).sum() == 4


def test_entries_of_questions_and_of_turns_are_the_same(folder):
    made = batches(folder)
    asked = made.entries({"question": [ASKED[0], ""], "answer": [ASKED[1], ""]}, "ab")
    turns = made.entries({"turns": [(Turn(*ASKED, videos=1),), ""]}, "ab")
    assert sorted(asked) == ["labels", "text"]
    for name in asked:
        np.testing.assert_array_equal(asked[name], turns[name])
    assert not asked["text"][1].any() and (asked["labels"][1] == NO_LABEL).all()


def test_a_qformer_reads_the_question_that_shows_the_video(folder, tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "what", "moves", "where"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    made = batches(folder, instructions=Instructions(tmp_path, len(words), length=6))
    turns = [
        (Turn("what", "it", videos=0), Turn("<video>\nwhere moves", "left", videos=1)),
        (),
    ]
    found = made.entries({"turns": turns}, "ab")["instruction"]
    assert found.dtype == np.int32
    assert found.tolist() == [[2, 7, 6, 3, 0, 0], [2, 3, 0, 0, 0, 0]]
    long = Instructions(tmp_path, len(words), length=4)(["what where moves what where"])
    assert long.tolist() == [[2, 5, 7, 3]], "its end"
    with pytest.raises(ValueError, match="8 words; the Q-Former has 9 embeddings"):
        Instructions(tmp_path, 9)
    with pytest.raises(ValueError, match="absent: the Q-Former reads questions"):
        Instructions(tmp_path / "absent", 9)


def test_an_answer_beyond_the_context_is_an_error(folder):
    with pytest.raises(ValueError, match="m, line 3: no token of the dialogue is of an answer"):
        batches(folder, context=16)([[Turn(*ASKED, videos=1)]], ["m, line 3"])


def test_an_unknown_template_is_named(folder):
    with pytest.raises(ValueError, match="template='plane'.*plain"):
        batches(folder, "plane")
