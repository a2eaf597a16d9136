"""Dialogues in manifests: what is read, and what is refused with a message."""

import json

import pytest

from vlt.data.manifests.dialogues import checked_dialogue
from vlt.data.manifests.manifest import ManifestError, read_manifest
from vlt.data.text.prompts import Turn

HUMAN = {"from": "human", "value": "What is it?\n<video>"}
GPT = {"from": "gpt", "value": " A dog. "}


@pytest.mark.parametrize(
    ("value", "turns"),
    [
        ([HUMAN, GPT], [Turn("What is it?\n<video>", " A dog. ", 1)]),
        ([["a", "b"], ["<video>c", "d"]], [Turn("a", "b"), Turn("<video>c", "d", 1)]),
        ([["Who?", "None"], ["Why?", "[1, 2]"]], [Turn("Who?", "None", 1), Turn("Why?", "[1, 2]")]),
        (json.dumps([HUMAN, GPT]), [Turn("What is it?\n<video>", " A dog. ", 1)]),
        (
            [{"from": "user", "value": "a"}, {"from": "assistant", "value": "b", "more": 1}],
            [Turn("a", "b", 1)],
        ),
    ],
)  # fmt: skip
def test_both_forms(value, turns):
    assert checked_dialogue(value) == tuple(turns)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], "must be a list of"),
        ({"from": "human"}, "must be a list of .*, is dict"),
        ("what?", "not JSON"),
        ([["only a question"]], r"entry 1 must be \[question, answer\]"),
        ([HUMAN], "ends with a question: entry 1 has no answer"),
        ([GPT, HUMAN], "entry 1 is from 'gpt', must be from human"),
        ([HUMAN, GPT, GPT], "entry 3 is from 'gpt', must be from human"),
        ([HUMAN, {"from": "gpt"}], "entry 2 must have `from` and `value`"),
        ([HUMAN, {"from": "gpt", "value": "  "}], "entry 2 must be text and not empty"),
        ([HUMAN, {"from": "gpt", "value": 7}], "entry 2 must be text"),
        ([HUMAN, {"from": "gpt", "value": "a\0"}], "entry 2 is not text"),
        ([HUMAN, {"from": ["gpt"], "value": "a"}], "entry 2 is from .*, must be from gpt"),
        ([["<video> or <video>?", "No."]], "it occurs 2 times"),
        ([["Which?", "<video>"]], "it occurs in an answer"),
    ],
)
def test_what_is_no_dialogue(value, reason):
    with pytest.raises(ValueError, match=reason):
        checked_dialogue(value)


def test_a_manifest_of_dialogues(tmp_path):
    (tmp_path / "a.mp4").touch()
    rows = [{"video": "a.mp4", "id": n, "conversations": [HUMAN, GPT]} for n in range(2)]
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [len(record.turns) for record in read_manifest(path)] == [1, 1]
    rows[1]["conversations"] = [GPT]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ManifestError, match="line 2: `conversations` entry 1 is from 'gpt'"):
        read_manifest(path)
