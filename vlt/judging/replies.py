"""Reads a judge's reply: a score and maybe a verdict, from a text that may hold anything."""

import ast
import re
from collections.abc import Collection
from typing import Any, NamedTuple

from vlt.data.text.text_files import parse_json
from vlt.data.text.texts import printable

LONGEST = 100_000  # characters of a reply
LONGEST_DICTIONARY, MOST_DICTIONARIES = 1000, 20
SHOWN = 100
BEST = 5
_DICTIONARY = re.compile(r"\{[^{}]*\}")  # plain, holding no other
_NUMBER = re.compile(r"\d(\.\d{1,6})?")


class ReplyError(ValueError):
    """A reply that holds no score; the message says why."""


class Verdict(NamedTuple):
    """score: 0 to 5. right: whether the prediction is right; None if that was not asked."""

    score: float
    right: bool | None


def read_reply(text: str, verdict: bool, published: Collection[str] = ()) -> Verdict:
    """Reads the score and, if `verdict`, whether the answer is right, from the last dictionary of
    plain values in a reply, as JSON or Python write it; nothing in it is executed.

    What a model thinks aloud before it is left out. published: keys of `criteria.PUBLISHED`.

    Raises:
        ReplyError: no dictionary, no score from 0 to 5, no verdict, or too long a reply.
    """
    if len(text) > LONGEST:
        raise ReplyError(f"a reply of {len(text):,} characters, more than {LONGEST:,}")
    found = _dictionary(text.rpartition("</think>")[2])
    score = _score(found["score"])
    if "truncate" in published:
        score = float(int(score))
    return Verdict(score, _right(found, "yes_in_text" in published) if verdict else None)


def _dictionary(text: str) -> dict[Any, Any]:
    for written in reversed(_DICTIONARY.findall(text)[-MOST_DICTIONARIES:]):
        if len(written) > LONGEST_DICTIONARY:
            continue
        for read in (parse_json, ast.literal_eval):
            try:
                found = read(written)
            except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
                continue
            if isinstance(found, dict) and "score" in found:
                return found
    shown = printable(" ".join(text.split()))
    raise ReplyError(f"no dictionary with `score` in {shown:.{SHOWN}}")


def _score(value: Any) -> float:
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value <= BEST:
        raise ReplyError(f"the score is {printable(f'{value!r:.{SHOWN}}')}, must be 0 to {BEST}")
    return float(value)


def _right(found: dict[Any, Any], anywhere: bool) -> bool:
    verdict = str(found.get("pred", "")).lower()
    if anywhere and ("yes" in verdict or "no" in verdict):
        return "yes" in verdict
    plain = verdict.strip(" .!'\"\n")
    if plain not in ("yes", "no"):
        raise ReplyError(f"the verdict is {printable(f'{verdict!r:.{SHOWN}}')}, must be yes or no")
    return plain == "yes"
