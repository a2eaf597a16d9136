"""What the command lines of the benchmarks share."""

import argparse
import sys
from collections.abc import Callable

from vlt.command_line import why
from vlt.data.video.errors import VideoError
from vlt.runtime.heap import keep_freed_memory


def count(text: str) -> int:
    """The argparse type of a count, at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number >= 1")
    return int(text)


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
    except (OSError, ValueError, VideoError) as error:
        sys.exit(f"error: {why(error)}")
