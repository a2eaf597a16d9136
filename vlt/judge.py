"""`vlt judge --qa PREDICTIONS REFERENCES --out=DIR --endpoint=URL ...`: has answers judged."""

import argparse
import dataclasses
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from vlt.command_line import why
from vlt.command_line.judge import parse
from vlt.data.manifests.manifest import ManifestError
from vlt.data.text.text_files import parse_json
from vlt.data.text.texts import printable
from vlt.judging.asking import Command, Judge, ask_all
from vlt.judging.criteria import CRITERIA, QUESTION_SETS, messages
from vlt.judging.endpoint import Endpoint, EndpointError
from vlt.judging.records import JudgingError, Records, Request
from vlt.judging.scores import COLUMNS, Reader, Unread, mean_row, row
from vlt.reporting.tables import format_table, write_results
from vlt.storage.files import write_whole
from vlt.tasks.answer_metrics import ANSWER_METRICS, answer_metrics
from vlt.tasks.answered_questions import Asked, Predictions, read_answered, read_asked
from vlt.tasks.caption_metrics import ScoringError

SHOWN = 5  # examples in a message
EXPECTED = (EndpointError, JudgingError, ManifestError, ScoringError, OSError)


class QuestionSet(NamedTuple):
    """Questions of one kind, and what a model answered."""

    name: str
    asked: list[Asked]
    predicted: Predictions


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns 0 when every question has its scores."""
    return run(parse("python -m vlt.judge", arguments))


def run(options: argparse.Namespace) -> int:
    """Runs the command with parsed arguments."""
    try:
        judge = _judge(options)
        sets = list(_question_sets(options))
        records = Records(options.out, list(_requests(sets, options.published)))
        reader = Reader(options.published)
        problem = _collect(options, judge, records, sets, reader)
        return _report(options, sets, records, reader, problem)
    except EXPECTED as error:
        print(printable(f"error: {why(error)}"), file=sys.stderr)
        return 1


def _judge(options: argparse.Namespace) -> Judge | None:
    if options.command:
        return Command(options.command, options.timeout)
    if not options.endpoint:
        return None
    name = options.key_env or ""
    key = os.environ.get(name, "").strip()
    if name and not key:
        # A text that cannot be a variable's name may be the key itself.
        named = name if re.fullmatch("[A-Z_][A-Z0-9_]*", name) else "of the given name"
        raise EndpointError(f"--key-env: no environment variable {named}, or it is empty")
    fields = dict(map(_field, options.set))
    return Endpoint(options.endpoint, options.model, key, options.timeout, options.attempts, fields)


def _field(text: str) -> tuple[str, Any]:
    key, _, value = text.partition("=")
    if not key or not value:
        raise EndpointError(f"--set {text}: must be KEY=VALUE")
    try:
        return key, parse_json(value)
    except ValueError:
        return key, value


def _question_sets(options: argparse.Namespace) -> Iterator[QuestionSet]:
    for name, criteria in QUESTION_SETS.items():
        if files := getattr(options, name):
            predictions, *references = files
            asked = read_asked(references, 2 if CRITERIA[criteria[0]].two else 1)
            yield QuestionSet(name, asked, read_answered(predictions, asked))


def _requests(sets: Iterable[QuestionSet], published: Sequence[str]) -> Iterator[Request]:
    for each in sets:
        for criterion in QUESTION_SETS[each.name]:
            for asked in each.asked:
                if (found := each.predicted.get(asked.id)) is not None:
                    text = messages(criterion, asked, found, published)
                    yield Request(asked.id, criterion, text)


def _collect(
    options: argparse.Namespace,
    judge: Judge | None,
    records: Records,
    sets: Sequence[QuestionSet],
    reader: Reader,
) -> str:
    """Adds replies to the records; returns why some did not come, or '' if nothing failed."""
    if options.replay:
        records.replay(options.replay)
    if judge is None:
        return ""
    waiting = []
    for request in _requests(sets, options.published):
        replies = records.replies.get(request.key, [])
        if len(replies) < options.tries and not any(map(reader.readable, replies)):
            waiting.append((request, options.tries - len(replies)))
    name = options.command or options.model or options.endpoint
    failures: list[str] = []
    print(f"{len(waiting):,} requests without a score are asked", file=sys.stderr)
    try:
        for outcome in ask_all(judge, name, waiting, reader.readable, options.parallel):
            if outcome.reply is None:
                failures.append(f"{outcome.request.id}: {outcome.failure}")
            else:
                records.add(outcome.reply)
    except EndpointError as error:
        return f"{error}; the same command goes on from here"
    return f"{len(failures)} requests failed: {'; '.join(failures[:SHOWN])}" if failures else ""


def _report(
    options: argparse.Namespace,
    sets: Sequence[QuestionSet],
    records: Records,
    reader: Reader,
    problem: str,
) -> int:
    rows: list[dict[str, Any]] = []
    unread: list[Unread] = []
    for given in sets:
        for criterion in QUESTION_SETS[given.name]:
            found, without = row(criterion, given.asked, given.predicted, records, reader)
            rows.append(found | (_offline(given) if given.name == "qa" else {}))
            unread += without
    rows += mean_row(rows)
    if reader.published:
        rows = [each | {"published": list(reader.published)} for each in rows]
    lines = [json.dumps(dataclasses.asdict(each), ensure_ascii=False) for each in unread]
    write_whole(options.out / "unread.jsonl", "".join(line + "\n" for line in lines))
    columns = [c for c in COLUMNS if c.key not in ANSWER_METRICS or any(c.key in r for r in rows)]
    write_results(options.out, rows, columns)
    if options.json:
        print("\n".join(map(json.dumps, rows)))
    else:
        print(format_table(rows, columns))
        if reader.published:
            print(f"as published: {', '.join(reader.published)}")
    if replied := [each for each in unread if each.answer]:
        told = "; ".join(
            f"{each.criterion} of {each.id}: {each.reason}" for each in replied[:SHOWN]
        )
        problem = "\n".join(
            filter(None, (problem, f"replies without a score, {len(replied)} in all: {told}"))
        )
    if problem:
        print(printable(problem), file=sys.stderr)
    return int(any(each["missing"] for each in rows))


def _offline(given: QuestionSet) -> dict[str, Any]:
    """Metrics of the given answers in percent, without a judge."""
    predicted = {identity: texts[0] for identity, texts in given.predicted.items()}
    return answer_metrics(predicted, {asked.id: asked.answers for asked in given.asked})


if __name__ == "__main__":
    sys.exit(main())
