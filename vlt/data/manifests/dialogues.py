"""Dialogues about a video, as people write them down: turns of a question and its answer."""

from collections.abc import Sequence
from typing import Any

from vlt.data.text.prompts import VIDEO, Turn
from vlt.data.text.text_files import parse_json
from vlt.data.text.texts import shown, trimmed, wrong_characters

ROLES = (("human", "user"), ("gpt", "assistant"))  # who asks, who answers
FORMS = 'a list of {"from": "human" or "gpt", "value": text}, in turn, or of [question, answer]'


def checked_dialogue(value: Any) -> tuple[Turn, ...]:
    """The turns of LLaVA's [{"from": "human", "value": ...}, {"from": "gpt", ...}, ...] or of
    [[question, answer], ...], either also as a JSON string; texts stay as they are written.

    One question may mark the place of the row's video with VIDEO. If none does, the video belongs
    to the first question, at the place that the template gives it.

    Raises:
        ValueError: the form is another, a speaker is out of turn, a text is invalid or empty, or
            VIDEO occurs in an answer or several times.
    """
    if isinstance(value, str):
        value = parse_json(value)
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError(f"must be {FORMS}, is {shown(value)}")
    spoken = isinstance(value[0], dict)
    pairs = _pairs_of_spoken(value) if spoken else [_pair(*each) for each in enumerate(value, 1)]
    places = sum(question.count(VIDEO) for question, _ in pairs)
    if places > 1 or any(VIDEO in answer for _, answer in pairs):
        where = f"occurs {places} times" if places > 1 else "occurs in an answer"
        raise ValueError(f"has one video, whose place {VIDEO} must be in one question; it {where}")
    videos = [question.count(VIDEO) for question, _ in pairs] if places else [1]
    videos += [0] * (len(pairs) - len(videos))
    return tuple(Turn(*pair, count) for pair, count in zip(pairs, videos, strict=True))


def _pairs_of_spoken(value: Sequence[Any]) -> list[tuple[str, str]]:
    texts = []
    for number, entry in enumerate(value, 1):
        if not isinstance(entry, dict) or not {"from", "value"} <= entry.keys():
            raise ValueError(f"entry {number} must have `from` and `value`, is {shown(entry)}")
        speakers = ROLES[(number - 1) % 2]
        if entry["from"] not in speakers:
            raise ValueError(
                f"entry {number} is from {entry['from']!r:.80}, must be from {speakers[0]}: "
                "questions and answers come in turn, a question first"
            )
        texts.append(_text(number, entry["value"]))
    if len(texts) % 2:
        raise ValueError(f"ends with a question: entry {len(texts)} has no answer")
    return list(zip(texts[::2], texts[1::2], strict=True))


def _pair(number: int, entry: Any) -> tuple[str, str]:
    if not isinstance(entry, (list, tuple)) or len(entry) != 2:
        raise ValueError(f"entry {number} must be [question, answer], is {shown(entry)}")
    question, answer = (_text(number, text) for text in entry)
    return question, answer


def _text(number: int, value: Any) -> str:
    if not isinstance(value, str) or not trimmed(value):
        raise ValueError(f"entry {number} must be text and not empty, is {shown(value)}")
    if wrong := wrong_characters(value):
        raise ValueError(f"entry {number} {wrong}")
    return value
