"""`vlt score PREDICTIONS.json REFERENCES [--json]`: scores captions that were written before."""

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


def main() -> None:
    """Prints the scores as a table, or as one JSON object."""
    run(parse("python -m vlt.score"))


def run(options: argparse.Namespace) -> None:
    """The same, of arguments that were parsed."""
    try:
        predictions = read_predictions(options.predictions)
        references = read_references(options.references)
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


if __name__ == "__main__":
    main()
