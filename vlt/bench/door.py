"""What the command lines of the benchmarks share."""

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

from vlt.command_line import why
from vlt.data.video.errors import VideoError
from vlt.runtime.heap import keep_freed_memory


def count(text: str) -> int:
    """The argparse type of a count, at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number >= 1")
    return int(text)


def show(found: Mapping[str, Any], as_json: bool) -> None:
    """Prints figures: as one JSON object, or a line each, those of a mapping indented below it."""
    print(json.dumps(found) if as_json else "\n".join(_lines(found)))


def _lines(found: Mapping[str, Any], indent: str = "") -> list[str]:
    lines = []
    for name, value in found.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{name}", *_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name:{28 - len(indent)}} {_readable(value)}")
    return lines


def _readable(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    digits = 4 - math.ceil(math.log10(abs(value))) if value else 0
    return f"{value:,.{max(digits, 0)}f}" if abs(value) < 1e6 else f"{value:.3e}"


def tell(main: Callable[[], None]) -> None:
    """Calls `main`, with the heap of training; exits with status 1 and a sentence on an error that
    the user can fix."""
    keep_freed_memory()
    try:
        main()
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        sys.exit("error: the peer is torch, which is not installed: pip install torch==2.13.0")
    except Exception as error:
        from vlt.door import EXPECTED  # with all that it imports, which some benchmarks time

        if not isinstance(error, (*EXPECTED, VideoError)):
            raise
        sys.exit(f"error: {why(error)}")
