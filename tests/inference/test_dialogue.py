"""A dialogue answers as if it were read again from the start; with golden LLaVA."""

import functools
import json
import sys

import numpy as np
import pytest
from helpers import ROOT

from vlt.api import VideoChat
from vlt.data.text.chat_tokenizer import ChatTokenizer
from vlt.inference.speech import check_rows
from vlt.model_io.folder import ModelConfig
from vlt.models.continuation import advance, begin, read, read_on, with_room

sys.path.append(str(ROOT / "tests" / "models"))
from golden_chat import Golden, channels_last

QUESTION = "What does the person do in the video?"
PIXELS = {
    "image_size": 56,
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
    "resize": "bicubic",
    "crop": "none",
}


@pytest.fixture(scope="module")
def golden(shared):
    return functools.cache(functools.partial(Golden, shared / "golden" / "chat"))


@pytest.fixture(scope="module")
def tokenizer(shared):
    return ChatTokenizer.load(shared / "golden" / "chat" / "tokenizer")


@pytest.fixture(scope="module")
def llava(golden, tokenizer, tmp_path_factory):
    """LLaVA with BT-Adapter, with attention over all frames."""
    found = golden("llava")
    config = ModelConfig("llava", found.spec, {}, PIXELS, frames=8)
    return VideoChat(found.model(), found.params, config, tokenizer, tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def videos(golden):
    numbers = golden("llava").numbers
    return {
        name: channels_last(numbers[f"{name}/video_times2_int8"])[None] / 2 for name in ("T8", "T6")
    }


SHORT = {"max_length": 20}


def programs(model):
    """Number of compiled programs that read videos, prompts and turns, and that generate."""
    compiled = (read, read_on, with_room, begin, advance, model._watcher._see)
    return {each: each._cache_size() for each in compiled}


def said(tokenizer, ids):
    ids = ids.tolist()
    return tokenizer.decode(ids[: ids.index(2)] if 2 in ids else ids).strip()


def test_the_golden_answer(llava, videos, golden, tokenizer):
    numbers = golden("llava").numbers
    dialogue = llava.chat(videos["T8"], spacing="fast")
    pieces = list(dialogue.stream(QUESTION, **SHORT))
    expected = said(tokenizer, numbers["T8/no_halving/greedy_ids"])
    assert "".join(pieces) == expected and len(pieces) > 2
    assert dialogue.turns[0].answer == expected
    beams = llava.chat(videos["T8"], spacing="fast").ask(
        QUESTION, method="beam", repetition_penalty=1.1, **SHORT
    )
    assert beams == said(tokenizer, numbers["T8/no_halving/beam_ids"][0])


def test_what_was_read_is_kept(llava, videos, monkeypatch):
    """Over several turns and a second video; stale keys would show in the answers."""
    from vlt.inference import dialogue as module

    lengths = []
    for name in ("read", "read_on"):
        original = getattr(module, name)

        def noted(*args, name=name, original=original):
            lengths.append((name, args[2].ids.shape[1]))
            return original(*args)

        monkeypatch.setattr(module, name, noted)
    kept = llava.chat(videos["T8"])
    answers = [kept.ask(QUESTION, **SHORT)]
    assert [name for name, _ in lengths] == ["read"]
    answers.append(kept.ask("Is the dog running?", **SHORT))
    kept.show(videos["T6"])
    answers.append(kept.ask("<video>\nHow many people are there?", **SHORT))
    assert [name for name, _ in lengths] == ["read", "read_on", "read_on"]
    assert max(length for name, length in lengths[1:]) < lengths[0][1]
    anew = llava.chat(videos["T8"])
    for turn, answer in enumerate(answers):
        anew._reading = None
        if turn == 2:
            anew.show(videos["T6"])
        asked = kept.turns[turn].question
        assert anew.ask(asked, **SHORT) == answer
    assert len(set(answers)) == 3
    compiled = programs(llava)
    other = llava.chat(videos["T8"][:, ::-1])
    for turn in kept.turns:
        if turn.videos and other.turns:
            other.show(videos["T6"][:, ::-1])
        other.ask(turn.question, **SHORT)
    assert programs(llava) == compiled, "other videos and turns of these sizes compile nothing"
    assert kept.videos == ["video 1", "video 1"]
    saved = json.loads(json.dumps(kept.to_dict()))
    assert [len(turn["videos"]) for turn in saved["turns"]] == [1, 0, 1]
    assert saved["turns"][2]["answer"] == answers[2]
    kept.reset()
    assert not kept.turns and not kept.videos


def test_an_answer_that_was_broken_off_is_none(llava, videos):
    dialogue = llava.chat(videos["T8"])
    whole = dialogue.ask(QUESTION, **SHORT)
    second = dialogue.ask("Is the dog running?", **SHORT)
    other = llava.chat(videos["T8"])
    other.ask(QUESTION, **SHORT)
    pieces = other.stream("Is the dog running?", **SHORT)
    assert second.startswith(next(pieces))
    pieces.close()
    assert len(other.turns) == 1
    assert other.turns[0].answer == whole
    assert other.ask("Is the dog running?", **SHORT) == second


def test_batches_of_unequal_questions(llava, videos):
    both = np.concatenate([videos["T8"], videos["T8"][:, ::-1]])
    questions = [QUESTION, "Is the dog running or sleeping? Describe it in detail, please."]
    found = llava.generate(both, questions, **SHORT)
    alone = [llava.chat(both[row : row + 1]).ask(questions[row], **SHORT) for row in (0, 1)]
    assert found == alone
    assert llava.generate(both[:1], QUESTION, **SHORT) == alone[:1]


def test_what_cannot_be(llava, videos, golden, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="did you mean 'video_chatgpt_v1'"):
        llava.chat(template="video_chatgpt")
    with pytest.raises(ValueError, match=r"'minigpt4' is not for this checkpoint.*vicuna_v1_1"):
        llava.chat(template="minigpt4")
    dialogue = llava.chat()
    with pytest.raises(ValueError, match="no video was shown yet"):
        dialogue.ask("What?")
    dialogue.show(videos["T6"])
    with pytest.raises(ValueError, match="2 places <video> and 1 videos"):
        dialogue.ask("<video> <video>?")
    with pytest.raises(ValueError, match="question=str: ' '"):
        dialogue.ask(" ")
    with pytest.raises(ValueError, match="temperature must be > 0"):
        dialogue.ask("What?", temperature=0.0)
    with pytest.raises(
        ValueError, match=r"a prompt of 4,\d\d\d tokens, 17 of them from videos \(1\)"
    ):
        dialogue.ask("dog " * 4000)
    assert dialogue.ask("What?", max_length=2) is not None  # the dialogue goes on
    with pytest.raises(ValueError, match="the tokenizer has 518 tokens .* 512 embeddings"):
        check_rows(518, 512)
    check_rows(32001, 32064)
    with pytest.raises(ValueError, match="of different checkpoints"):
        found = golden("minigpt4")
        config = ModelConfig("minigpt4", found.spec, {}, PIXELS)
        VideoChat(found.model(), found.params, config, tokenizer, tmp_path)
