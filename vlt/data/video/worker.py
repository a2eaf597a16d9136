"""A decoder process: `python -m vlt.data.video.worker`, started by a `DecoderPool`.

It reports that it runs, then answers requests one by one until its standard input ends, as it does
when the parent dies in any way. The messages are those of `vlt.data.video.messages`.
"""

import os
import signal
import sys
import traceback
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vlt.data.video import messages
from vlt.data.video.clips import ClipRequest, read_clip
from vlt.data.video.errors import DecoderDied, VideoError


def main(
    read: Callable[[Any], np.ndarray] | None = None,
    request_of: Callable[..., Any] = types.SimpleNamespace,
) -> None:
    """Answers requests until nobody is left to send any.

    read: answers a request with uint8 of any shape; by default it reads clips. request_of: makes
    a request from its fields.
    """
    if read is None:
        read, request_of = read_clip, ClipRequest
    # Stopping a job may signal all of its processes; decoders are still needed, and end with it.
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.SIG_IGN)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # What a codec library prints must not come between the answers.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        _send(answers, messages.pack(messages.READY))
        while header := sys.stdin.buffer.read(messages.LENGTH.size):
            (size,) = messages.LENGTH.unpack(header)
            asked = messages.unpack(sys.stdin.buffer.read(size))
            # If the parent is gone when a decoder hangs, the kernel ends this process.
            signal.setitimer(signal.ITIMER_REAL, 2 * asked["limit"] + 1)
            answer = _answer(read, request_of, asked["request"])
            signal.setitimer(signal.ITIMER_REAL, 0)
            content = answer.data if isinstance(answer, np.ndarray) else b""
            _send(answers, messages.pack_answer(answer), content)
    except BrokenPipeError:
        os._exit(1)


def _answer(
    read: Callable[[Any], np.ndarray], request_of: Callable[..., Any], fields: Mapping[str, Any]
) -> np.ndarray | Exception:
    try:
        answer = np.ascontiguousarray(read(request_of(**fields)))
        if answer.dtype != np.uint8 or answer.nbytes > messages.MOST_BYTES:
            most = f"uint8 of at most {messages.MOST_BYTES:,} bytes"
            raise ValueError(f"{answer.dtype} of shape {answer.shape} is asked for; {most} can be")
    except MemoryError:
        return DecoderDied(str(fields.get("path")), "its decoder ran out of memory")
    except Exception as error:
        if type(error) in messages.REQUEST_ERRORS or isinstance(error, VideoError):
            return error
        # A library met what it did not expect in this file; others can be read all the same.
        place = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
        return DecoderDied(str(fields.get("path")), f"its decoder failed with {what}")
    return answer


def _send(answers: BinaryIO, head: bytes, content: memoryview | bytes = b"") -> None:
    answers.write(head)
    answers.write(content)
    answers.flush()


if __name__ == "__main__":
    main()
