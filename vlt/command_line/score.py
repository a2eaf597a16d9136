"""Scores captions, or answers to questions, that were written before.

PREDICTIONS holds {id: caption}, as evaluations write it, COCO's list, or what `vlt caption --json`
prints; REFERENCES is a manifest, {id: captions} or COCO's annotations. A captioned file has the id
of its row in a manifest, or else the id that equals its path, its name, or its name without suffix.

If the references hold questions, answers are scored: exact match, whether a prediction contains the
answer, and the F1 of their words (after SQuAD: lower case, without punctuation and articles) come
before the metrics of captions. Both files are then as `vlt judge` takes them.
"""

import argparse


def parse(program: str, arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the arguments, by default those of this process; exits if they do not fit."""
    parser = argparse.ArgumentParser(
        prog=program,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("predictions", metavar="PREDICTIONS")
    parser.add_argument("references", metavar="REFERENCES")
    parser.add_argument(
        "--intersection",
        action="store_true",
        help="score the ids that both files have; else all must be in both, and others are named",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args(arguments)
