"""Scores of short answers against true ones, without a judge."""

import collections
import re
import string
from collections.abc import Mapping, Sequence

ANSWER_METRICS = ("exact match", "contains", "token F1")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def plain(text: str) -> str:
    """Lower case, without punctuation or articles, one space between words (SQuAD's rule)."""
    text = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def exact_match(prediction: str, answer: str) -> float:
    """1 if both are the same after `plain`, else 0."""
    return float(plain(prediction) == plain(answer))


def contains(prediction: str, answer: str) -> float:
    """1 if the prediction contains the answer's words side by side, else 0."""
    found, wanted = plain(prediction), plain(answer)
    return float(f" {wanted} " in f" {found} " if wanted else not found)


def token_f1(prediction: str, answer: str) -> float:
    """Harmonic mean of the shares of words that the two have in common; 1 if both are empty
    (SQuAD, arXiv:1606.05250)."""
    found, wanted = plain(prediction).split(), plain(answer).split()
    if not found or not wanted:
        return float(found == wanted)
    common = sum((collections.Counter(found) & collections.Counter(wanted)).values())
    return 2 * common / (len(found) + len(wanted))


def answer_metrics(
    predictions: Mapping[str, str], answers: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """`ANSWER_METRICS` in percent: means over predictions, each scored by the answer it fits best.

    answers: the true answers for the predictions' ids, and possibly for others.
    """
    rules = zip(ANSWER_METRICS, (exact_match, contains, token_f1), strict=True)
    return {
        name: 100
        * sum(max(rule(text, a) for a in answers[i]) for i, text in predictions.items())
        / len(predictions)
        for name, rule in rules
    }
