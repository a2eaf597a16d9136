"""Scores captions that were written before.

    python -m vlt.score PREDICTIONS.json REFERENCES [--json]

PREDICTIONS holds {id: caption}, as evaluations write it, or COCO's list; REFERENCES is a manifest,
{id: captions} or COCO's annotations.
"""

import argparse
import json
import sys

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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("predictions")
    parser.add_argument("references")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    try:
        predictions = read_predictions(arguments.predictions)
        references = read_references(arguments.references)
        scores = caption_metrics(predictions, references)
    except (ScoringError, ManifestError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except RuntimeError as error:  # Java's programs
        sys.exit(f"error: {error}")
    if arguments.json:
        print(json.dumps(scores))
        return
    texts = sum(map(len, references.values()))
    print(f"{len(predictions):,} captions against {texts:,} references, percent")
    row = {name: scores.get(name, "needs Java") for name in METRICS}
    print(format_table([row], [Column(name, name, ".2f") for name in METRICS]))


if __name__ == "__main__":
    main()
