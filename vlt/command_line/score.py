"""Scores captions that were written before.

PREDICTIONS holds {id: caption}, as evaluations write it, or COCO's list; REFERENCES is a manifest,
{id: captions} or COCO's annotations.
"""

import argparse


def parse(program: str, arguments: list[str] | None = None) -> argparse.Namespace:
    """The arguments, or those of this process; ends it where they do not fit."""
    parser = argparse.ArgumentParser(
        prog=program,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("predictions", metavar="PREDICTIONS")
    parser.add_argument("references", metavar="REFERENCES")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args(arguments)
