"""Lists the checkpoints that configs ask for in the local folder `checkpoints`.

Shows for each its layout, the licence of the weights as the publisher's page or repository states
it, the size of the converted folder and whether that is present and intact, where it is published,
and the command that converts it. Nothing is downloaded.
"""

import argparse
from pathlib import Path

from vlt.configuration.checkpoints import CHECKPOINTS
from vlt.pytrees.fields import did_you_mean


def parse(program: str, arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the arguments, by default those of this process; exits if they do not fit."""
    parser = argparse.ArgumentParser(
        prog=program,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", type=_name, help="all by default")
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--verify",
        type=Path,
        metavar="FILE",
        help="compare a downloaded file's sha256 with the published one, known of OpenAI's",
    )
    form.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args(arguments)


def _name(text: str) -> str:
    if text not in CHECKPOINTS:
        raise argparse.ArgumentTypeError(
            f"no config asks for {text!r}{did_you_mean(text, CHECKPOINTS)}; choose from "
            f"{', '.join(CHECKPOINTS)}"
        )
    return text
