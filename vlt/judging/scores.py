"""Scores from a judge's replies, with the number of questions behind them and the judge's name."""

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from vlt.judging.criteria import CRITERIA, FIVE
from vlt.judging.records import Records, Reply
from vlt.judging.replies import ReplyError, Verdict, read_reply
from vlt.reporting.tables import Column
from vlt.tasks.answer_metrics import ANSWER_METRICS
from vlt.tasks.answered_questions import Asked, Predictions

COLUMNS = (
    Column("criterion", "criterion"),
    Column("score", "score, 0-5", ".3f"),
    Column("accuracy", "accuracy, %", ".2f"),
    *(Column(key, key, ",d") for key in ("questions", "asked", "scored", "missing")),
    *(Column(name, f"{name}, %", ".2f") for name in ANSWER_METRICS),
    Column("judge", "judge"),
    Column("date", "date"),
)


@dataclasses.dataclass(frozen=True)
class Unread:
    """A request without a score. answer: the last reply to it, '' if there is none."""

    id: str
    criterion: str
    reason: str
    answer: str


@dataclasses.dataclass(frozen=True)
class Reader:
    """Reads replies. published: keys of `criteria.PUBLISHED`."""

    published: Collection[str] = ()

    def verdict(self, reply: Reply) -> Verdict:
        """The verdict in a reply. Raises ReplyError if it holds none."""
        return read_reply(reply.answer, CRITERIA[reply.criterion].verdict, self.published)

    def readable(self, reply: Reply) -> bool:
        """Whether a reply holds a verdict."""
        try:
            self.verdict(reply)
        except ReplyError:
            return False
        return True


def row(
    criterion: str,
    asked: Sequence[Asked],
    predicted: Predictions,
    records: Records,
    reader: Reader,
) -> tuple[dict[str, Any], list[Unread]]:
    """The table's row for a criterion, and the requests that have no score.

    Means are over the scored questions; `missing` counts the others, which lack a prediction, a
    reply or a score in it.
    """
    verdicts: list[Verdict] = []
    judges: list[Reply] = []
    unread: list[Unread] = []
    for identity in predicted:
        replies = records.replies.get((criterion, identity), [])
        good = [reply for reply in replies if reader.readable(reply)]
        if good:
            verdicts.append(reader.verdict(good[-1]))
            judges.append(good[-1])
        else:
            unread.append(_unread(criterion, identity, replies, reader))
    found = {
        "criterion": criterion,
        "score": _mean([verdict.score for verdict in verdicts]),
        "accuracy": _percent(verdicts),
        "questions": len(asked),
        "asked": len(predicted),
        "scored": len(verdicts),
        "missing": len(asked) - len(verdicts),
        "judge": _listed(reply.judge for reply in judges),
        "date": _span(reply.date for reply in judges),
    }
    return found, unread


def mean_row(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row with the mean of the benchmark's five scores; no row if one of them is missing."""
    five = [each for each in rows if each["criterion"] in FIVE and each["scored"]]
    if len(five) < len(FIVE):
        return []
    counts = {k: sum(r[k] for r in five) for k in ("questions", "asked", "scored", "missing")}
    return [
        {
            "criterion": "mean of five",
            "score": _mean([each["score"] for each in five]),
            "accuracy": None,
            **counts,
            "judge": _listed(each["judge"] for each in five),
            "date": _span(date for each in five for date in each["date"].split(" to ")),
        }
    ]


def _unread(criterion: str, identity: str, replies: Sequence[Reply], reader: Reader) -> Unread:
    if not replies:
        return Unread(identity, criterion, "no reply", "")
    try:
        reader.verdict(replies[-1])
    except ReplyError as error:
        return Unread(identity, criterion, str(error), replies[-1].answer)
    raise AssertionError("a reply that can be read")


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _percent(verdicts: Sequence[Verdict]) -> float | None:
    told = [float(verdict.right) for verdict in verdicts if verdict.right is not None]
    mean = _mean(told)
    return None if mean is None else 100 * mean


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(filter(None, set(names)))) or "unknown"


def _span(dates: Iterable[str]) -> str:
    days = sorted(filter(None, set(dates)))
    if not days:
        return "unknown"
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
