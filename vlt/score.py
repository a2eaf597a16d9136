"""`vlt score PREDICTIONS REFERENCES [--json]`: scores captions, or answers, written earlier."""

import argparse
import json
import sys

from vlt.command_line.score import parse
from vlt.data.manifests.manifest import ManifestError
from vlt.reporting.tables import Column, format_table
from vlt.tasks.answer_metrics import ANSWER_METRICS, answer_metrics
from vlt.tasks.answered_questions import holds_questions, read_answered, read_asked
from vlt.tasks.caption_metrics import (
    METRICS,
    ScoringError,
    caption_metrics,
    read_predictions,
    read_references,
)
from vlt.tasks.captioned_videos import by_reference, common_ids, read_captioned_videos


def main() -> None:
    """Prints the scores as a table, or as one JSON object."""
    run(parse("python -m vlt.score"))


def run(options: argparse.Namespace) -> None:
    """Runs the command with parsed arguments."""
    try:
        asked = holds_questions(options.references)
        predictions, references = (_answers if asked else _captions)(options)
        scores = answer_metrics(predictions, references) if asked else {}
        scores |= caption_metrics(predictions, references)
    except (ScoringError, ManifestError, RuntimeError) as error:  # the last from Java programs
        sys.exit(f"error: {error}")
    if options.json:
        print(json.dumps(scores))
        return
    texts = sum(map(len, references.values()))
    kind = "answers" if asked else "captions"
    print(f"{len(predictions):,} {kind} against {texts:,} references, percent")
    names = (*(ANSWER_METRICS if asked else ()), *METRICS)
    row = {name: scores.get(name, "needs Java") for name in names}
    print(format_table([row], [Column(name, name, ".2f") for name in names]))


def _captions(options: argparse.Namespace) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Predictions and references by id."""
    captions = read_captioned_videos(options.predictions)
    predictions = read_predictions(options.predictions) if captions is None else {}
    references = read_references(options.references)
    if captions is not None:
        predictions = by_reference(captions, references, options.references)
    return _common(predictions, references) if options.intersection else (predictions, references)


def _answers(options: argparse.Namespace) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Predicted and reference answers by id."""
    asked = read_asked([options.references])
    answered = read_answered(options.predictions, asked)
    predictions = {identity: texts[0] for identity, texts in answered.items()}
    references = {each.id: list(each.answers) for each in asked}
    return _common(predictions, references) if options.intersection else (predictions, references)


def _common(
    predictions: dict[str, str], references: dict[str, list[str]]
) -> tuple[dict[str, str], dict[str, list[str]]]:
    before = len(predictions), len(references)
    predictions, references = common_ids(predictions, references)
    _tell_left_out(before, len(references))
    return predictions, references


def _tell_left_out(before: tuple[int, int], kept: int) -> None:
    predictions, references = (f"{kept:,} of {count:,}" for count in before)
    print(f"scored: {predictions} predictions, {references} references' ids", file=sys.stderr)


if __name__ == "__main__":
    main()
