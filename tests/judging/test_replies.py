"""Judges' replies: what is a score, and what only looks like one."""

import random
import time

import pytest

from vlt.command_line import judge as judge_arguments
from vlt.judging.criteria import CRITERIA, FIVE, PUBLISHED, QUESTION_SETS, messages
from vlt.judging.replies import LONGEST, ReplyError, read_reply
from vlt.tasks.answered_questions import Asked


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("{'score': 4}", 4),
        ('{"score": 4}', 4),
        ("```python\n{'score': 0}\n```", 0),
        ("Here it is: {'score': 4.8}.", 4.8),
        ("{'score': '3'}", 3),
        ("{'score': '2.5', 'why': None}", 2.5),
        ("{'score': 1} no, rather {'score': 2}", 2),
        ("<think>{'score': 1}</think>{'score': 5} as {asked}", 5),
        ('{"score": 4, "score": 2}', 2),  # valid in Python, not in JSON
    ],
)
def test_scores(text, score):
    assert read_reply(text, False) == (score, None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "4",
        "score: 4",
        "{'score'}",
        "{''score': 4.8}",
        "{'score': 6}",
        "{'score': -1}",
        "{'score': True}",
        "{'score': None}",
        "{'score': nan}",
        '{"score": NaN}',
        "{'score': 1e400}",
        "{'score': 4+0j}",
        "{'score': [4]}",
        "{'score': 'four'}",
        "{'score': '1e0'}",
        "{'score': " + "9" * 900 + "}",
        "{'score': 4 if True else 3}",
        "{'score': __import__('os').system('true')}",
        "{[]: 1, 'score': 4}",
        "{'Score': 4}",
        "{" * 50_000,
        "{'score': " + "(" * 900 + "}",
        "{'score': " + "-" * 900 + "1}",
        "{'score': " + "~" * 40_000 + "1}",
        "{'a':1}" * 10_000,
        "{'score': 4}" + " " * LONGEST,
        "\x1b[2J{'score': '\x9b'}",
    ],
)
def test_what_is_no_score(text):
    started = time.process_time()
    with pytest.raises(ReplyError) as raised:
        read_reply(text, False)
    assert str(raised.value).isprintable() and len(str(raised.value)) < 300
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    ("verdict", "right"), [("yes", True), ("No.", False), (" YES ", True), ("'no'", False)]
)
def test_verdicts(verdict, right):
    assert read_reply(str({"pred": verdict, "score": 3}), True) == (3, right)


@pytest.mark.parametrize("verdict", ["yes or no", "maybe", "", None, 1, True])
def test_what_is_no_verdict(verdict):
    with pytest.raises(ReplyError, match="must be yes or no"):
        read_reply(str({"pred": verdict, "score": 3}), True)
    with pytest.raises(ReplyError, match="must be yes or no"):
        read_reply("{'score': 3}", True)


def test_published_readings():
    reply = "{'pred': 'no, not yes', 'score': 4.8}"
    assert read_reply(reply, True, ("yes_in_text", "truncate")) == (4, True)
    assert read_reply(reply, False) == (4.8, None)


def test_whatever_a_judge_says_ends_in_a_score_or_a_reply_error():
    draw = random.Random(0)
    words = """{ } ( ) [ ] 'score' "score" : , 4 4.8 1e9 0x 1_0 - * ** // \\ ' " 'pred' 'yes'
        lambda f'{1}' b'' ... None \\ud83d </think>"""
    pieces = [*words.split(), "\n", "\0", "\ud800", "{'score': 4}", "{'score': 4}"]
    read = 0
    for _ in range(3000):
        text = "".join(draw.choice(pieces) for _ in range(draw.randrange(1, 14)))
        try:
            score, _ = read_reply(text, False)
        except ReplyError as error:
            assert str(error).isprintable()
        else:
            read += 1
            assert 0 <= score <= 5
    assert read > 100


def test_every_criterion_is_asked_and_every_option_is_known():
    assert {c for criteria in QUESTION_SETS.values() for c in criteria} == {*CRITERIA}
    assert {*FIVE} == {*CRITERIA} - {"qa"}
    assert (*PUBLISHED,) == judge_arguments.PUBLISHED
    assert [name[2:] for name in judge_arguments.SETS] == [*QUESTION_SETS]


@pytest.mark.parametrize("name", CRITERIA)
def test_what_a_judge_is_told(name):
    two = CRITERIA[name].two
    asked = Asked("1", "v", ("Who?", "Which one?")[: 1 + two], ("He {x}", "Him"), True)
    system, user = messages(name, asked, ("she", "her")[: 1 + two])
    assert (system["role"], user["role"]) == ("system", "user")
    assert "## INSTRUCTIONS\n- " in system["content"] and CRITERIA[name].aim in system["content"]
    for text in ("Who?", "He {x} / or: Him", "she", *(["Which one?", "her"] if two else [])):
        assert text in user["content"]
    assert ('"pred"' in user["content"]) == (name == "qa")
    example = user["content"].rpartition("For example: ")[2]
    assert read_reply(example, name == "qa").score == 4
