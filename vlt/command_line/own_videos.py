"""What every command takes that runs a model over one's own videos."""

import argparse
from pathlib import Path


def make_parser(program: str, description: str | None, model: str) -> argparse.ArgumentParser:
    """The options of every such command: VIDEO..., --model or --workdir, and --json.

    Args:
        program: as typed. model: taken where neither --model nor --workdir is given.
    """
    parser = argparse.ArgumentParser(
        prog=program,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help="file, folder or pattern")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--model", default=model, help="model folder")
    source.add_argument("--workdir", type=Path, help="folder of a run that trained such a model")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    return parser
