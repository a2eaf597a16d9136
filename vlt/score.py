"""`vlt score PREDICTIONS REFERENCES [--json]`: scores captions that were written before."""

import argparse
import json
import sys

from vlt.command_line.score import parse
from vlt.data.manifest import ManifestError
from vlt.reporting.tables import Column, format_table
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
    """The same, of arguments that were parsed."""
    try:
        captions = read_captioned_videos(options.predictions)
        predictions = read_predictions(options.predictions) if captions is None else {}
        references = read_references(options.references)
        if captions is not None:
            predictions = by_reference(captions, references, options.references)
        if options.intersection:
            before = len(predictions), len(references)
            predictions, references = common_ids(predictions, references)
            _tell_left_out(before, len(references))
        scores = caption_metrics(predictions, references)
    except (ScoringError, ManifestError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except RuntimeError as error:  # Java's programs
        sys.exit(f"error: {error}")
    if options.json:
        print(json.dumps(scores))
        return
    texts = sum(map(len, references.values()))
    print(f"{len(predictions):,} captions against {texts:,} references, percent")
    row = {name: scores.get(name, "needs Java") for name in METRICS}
    print(format_table([row], [Column(name, name, ".2f") for name in METRICS]))


def _tell_left_out(before: tuple[int, int], kept: int) -> None:
    predictions, references = (f"{kept:,} of {count:,}" for count in before)
    print(f"scored: {predictions} predictions, {references} references' ids", file=sys.stderr)


if __name__ == "__main__":
    main()
