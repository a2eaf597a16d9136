"""Dialogues are tokenized as in the published systems, id by id."""

import json
import re

import numpy as np
import pytest

from vlt.data.text.chat_tokenizer import ChatTokenizer
from vlt.data.text.prompts import (
    END,
    START,
    TEMPLATES,
    VIDEO,
    Piece,
    Template,
    Turn,
    render,
    template,
)

ADDED = ("<vid_start>", "<vid_end>")
QUESTION = "What does the person do in the video?"


@pytest.fixture(scope="module")
def golden(shared):
    return shared / "golden" / "chat"


@pytest.fixture(scope="module")
def tokenizer(golden):
    return ChatTokenizer.load(golden / "tokenizer")


@pytest.fixture(scope="module")
def numbers(golden):
    names = ("llava_small", "minigpt4_small", "instructblip_small")
    return {name: np.load(golden / f"{name}.npz") for name in names}


def cut(text):
    """Cuts a written-out dialogue into pieces."""
    text = f"{START}{text}"
    text = re.sub(r"(<vid_patch>)+", VIDEO, text)
    parts = re.split(f"({'|'.join((VIDEO, START, END, *ADDED))})", text)
    return [Piece(part, part in (VIDEO, START, END, *ADDED)) for part in parts if part]


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_fast_4.31.json"])
@pytest.mark.parametrize(
    ("spacing", "stored"),
    [
        ("train", "slow_4.31"),
        ("fast", "fast_4.31"),
        ("modern", "transformers_5.24_legacy"),
    ],
)
def test_texts_with_added_tokens_in_three_spacings(golden, tmp_path, name, spacing, stored):
    for file in ("tokenizer_config.json", name):
        target = tmp_path / ("tokenizer.json" if file == name else file)
        target.write_bytes((golden / "tokenizer" / file).read_bytes())
    tokenizer = ChatTokenizer.load(tmp_path)
    cases = json.loads((golden / "tokenizer/tokens.json").read_text())
    used = Template("", "", "", "", "", "", tokens=(START, END, *ADDED))
    for text, wanted in zip(cases["texts"], cases["ids"][stored], strict=True):
        videos = [run.count("<vid_patch>") for run in re.findall(r"(?:<vid_patch>)+", text)]
        found = tokenizer.encode(cut(text), used, videos, spacing)
        assert found.ids.tolist() == wanted, text
        assert (found.video >= 0).sum() == sum(videos)
    for text, wanted in zip(cases["texts"], cases["ids"]["sentencepiece_raw_no_bos"], strict=True):
        assert tokenizer.words(text) == wanted


def test_the_prompt_of_a_video(tokenizer, numbers):
    stored = numbers["llava_small"]
    used = template("video_chatgpt_v1")
    pieces = render(used, [Turn(QUESTION, videos=1)])
    for spacing, name in (("train", "ids_slow_tokenizer"), ("fast", "ids")):
        found = tokenizer.encode(pieces, used, [17], spacing)
        assert found.ids.tolist() == stored[f"prompt/{name}"][0].tolist()
        places = np.flatnonzero(found.video >= 0)
        assert found.video[places].tolist() == list(range(17))
        assert (found.ids[places] == tokenizer.id_of("<vid_patch>")).all()
        assert not found.answer.any()


def test_two_videos_in_their_places(tokenizer, numbers):
    used = template("vicuna_v1_1")
    turns = [
        Turn("<video>\nDescribe the video in detail.", "A red circle moves left.", 1),
        Turn("<video>\nWhat happens after the square vanishes?", videos=1),
    ]
    found = tokenizer.encode(render(used, turns), used, [17, 17], "fast")
    assert found.ids.tolist() == numbers["llava_small"]["two_videos/ids"][0].tolist()
    assert found.video[found.video >= 0].tolist() == list(range(34))


def test_what_training_labels(tokenizer, numbers, golden):
    used = template("vicuna_v1_1")
    config = json.loads((golden / "llava_small_config.json").read_text())
    stored = numbers["llava_small"]
    for row, dialogue in enumerate(config["train"]["dialogues"]):
        turns = [Turn(question, answer, question.count(VIDEO)) for question, answer in dialogue]
        found = tokenizer.encode(render(used, turns), used, [17])
        kept = stored["train/attention_mask"][row] > 0
        assert found.ids.tolist() == stored["train/input_ids"][row][kept].tolist()
        labels = np.where(found.answer, found.ids, -100)
        assert labels.tolist() == stored["train/labels"][row][kept].tolist()


def test_minigpt4_reads_what_stands_around_a_video_apart(tokenizer, numbers):
    used, stored = template("minigpt4"), numbers["minigpt4_small"]
    found = tokenizer.encode(render(used, [Turn("What happens first?", videos=1)]), used, [8])
    words = found.ids[found.video < 0].tolist()
    first = stored["prompt/segment0_ids"].tolist()
    assert words == first + stored["prompt/segment1_ids"].tolist()
    assert found.video[len(first)] == 0
    inside, begins = stored["stop_ids_inside"].tolist(), stored["stop_ids_word_start"].tolist()
    assert set(tokenizer.stops(used.stops)) == {tuple(inside), tuple(begins)}
    # Training has one more space.
    used = template("minigpt4_training")
    pieces = render(used, [Turn("Describe the video in detail.", videos=1)])
    text = "".join(piece.text for piece in pieces[1:])
    assert text == str(stored["batch/texts"][0]).replace("<ImageHere>", VIDEO)


def test_instructblip_reads_the_video_before_the_start(golden, numbers, tmp_path):
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / file).write_bytes((golden / "tokenizer" / file).read_bytes())
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings["bos_token"] = END  # as in LAVIS
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = ChatTokenizer.load(tmp_path)
    used, stored = template("instructblip"), numbers["instructblip_small"]
    for row, question in enumerate(stored["questions"]):
        found = tokenizer.encode(render(used, [Turn(str(question), videos=1)]), used, [8])
        assert found.video[:9].tolist() == [*range(8), -1]
        kept = stored["llm_mask_left"][row] > 0
        assert found.ids[8:].tolist() == stored["llm_ids_left"][row][kept].tolist()


def test_dialogues_read_as_published():
    turns = [Turn("q1", "a1", 1), Turn("q2")]

    def text(name):
        return "".join(piece.text for piece in render(template(name), turns))

    block = "<vid_start><video><vid_end>"
    assert text("video_chatgpt_v1").endswith(
        f"provided video. USER: q1\n{block} ASSISTANT: a1</s>USER: q2 ASSISTANT:"
    )
    assert text("llava_v0").endswith(
        "in detail.###Human: Hi!###Assistant: Hi there!  How can I help you today?\n###"
        "Human: q1\n<im_start><video><im_end>###Assistant: a1###Human: q2###Assistant:"
    )
    assert text("llava_v1_5").endswith("USER: <video>\nq1 ASSISTANT: a1</s>USER: q2 ASSISTANT:")
    assert text("minigpt4").endswith(
        "###Human: <Img><video></Img> q1###Assistant: a1###Human: q2###Assistant: "
    )
    systems = {name: used.system for name, used in TEMPLATES.items()}
    assert systems["llava_v1"] != systems["llava_v1_since_1.0"] != systems["vicuna_v1_1"]


def test_no_text_of_a_user_is_a_special_token(tokenizer):
    used = template("vicuna_v1_1")
    pieces = render(used, [Turn("</s><vid_start> <s>?")])
    found = tokenizer.encode(pieces, used, [])
    special = [1, 2, *range(512, 518)]
    assert np.isin(found.ids, special).sum() == 1 and found.ids[0] == 1
    assert "</s><vid_start> <s>?" in tokenizer.decode(found.ids)


def test_what_does_not_fit(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="did you mean 'vicuna_v1_1'"):
        template("vicuna_v11")
    used = template("vicuna_v1_1")
    with pytest.raises(ValueError, match="2 places <video> and 1 videos"):
        render(used, [Turn("<video><video>?", videos=1)])
    pieces = render(used, [Turn("?", videos=1)])
    with pytest.raises(ValueError, match="2 videos for a dialogue with 1 places"):
        tokenizer.encode(pieces, used, [17, 17])
    with pytest.raises(ValueError, match="did you mean 'train'"):
        tokenizer.encode(pieces, used, [17], "training")
    with pytest.raises(ValueError, match="half of a surrogate pair"):
        tokenizer.words("\ud800")
    with pytest.raises(ValueError, match="no token <vid_begin>"):
        tokenizer.id_of("<vid_begin>")
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json"):
        ChatTokenizer.load(tmp_path)
