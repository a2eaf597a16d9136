"""Questions about moving shapes, and the tokenizer of the model that answers them."""

import json

import pytest
from tokenizers import Tokenizer

from vlt.data import moving_shapes
from vlt.data.moving_shapes.questions import KINDS


@pytest.fixture(scope="module")
def clips():
    return [moving_shapes.draw_pair(pair, 0, "train") for pair in range(12)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat_tokenizer")
    moving_shapes.write_chat_tokenizer(folder)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def test_twins_are_asked_the_same_and_answer_otherwise_but_for_looks(clips):
    for twins in clips:
        asked = list(zip(*(clip.questions for clip in twins), strict=True))
        assert [first.kind for first, _ in asked] == [*KINDS]
        assert all(first.text == second.text for first, second in asked)
        assert [first.answer == second.answer for first, second in asked] == [False, False, True]


def test_answers_say_what_the_caption_says(clips):
    for clip in sum(clips, ()):
        motion, description, look = clip.questions
        assert description.answer == clip.caption
        assert look.answer == clip.appearance
        assert clip.caption.startswith(motion.answer) or motion.answer == f"it {clip.motion}"


def test_a_frame_is_asked_what_it_shows():
    frames = [moving_shapes.draw_frame(index, 0, "train") for index in range(24)]
    assert all(frame.questions[2].answer == frame.appearance for frame in frames)
    assert all(frame.questions[1].answer == frame.caption for frame in frames)


def test_every_word_is_one_piece_and_comes_back(clips, tokenizer):
    for clip in sum(clips, ()):
        for question in clip.questions:
            for text in (question.text, question.answer):
                ids = tokenizer.encode(text).ids
                assert len(ids) == len(text.replace(",", " ,").split())
                assert tokenizer.decode(ids) == text


def test_other_letters_are_bytes_and_no_word_is_a_special_token(tokenizer):
    tokens = tokenizer.encode("h\u00e9").tokens
    assert tokens[-2:] == ["<0xC3>", "<0xA9>"]
    assert [tokenizer.token_to_id(t) for t in ("<unk>", "<s>", "</s>", "<0x00>")] == [0, 1, 2, 3]


def test_a_data_set_lists_three_questions_of_each_clip(tmp_path):
    folder = moving_shapes.generate(tmp_path / "clips", 2).parent
    rows = [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in rows] == [*KINDS] * 4
    assert all((folder / row["video"]).is_file() for row in rows)
    assert (folder / "chat_tokenizer" / "tokenizer.json").is_file()
