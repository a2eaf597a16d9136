"""A decoder process: `python -m vlt.data.worker`, started by `vlt.data.clips.DecoderPool`.

It says that it runs, then answers requests one by one until its standard input ends, which it does
when the parent dies, however. Every message is an 8-byte length and that many bytes of pickle:
(request, seconds) comes in; None (at the start), an exception, or the shape of an array whose bytes
follow goes out.
"""

import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from vlt.data.clips import LENGTH, read_clip


def main(read: Callable[[Any], np.ndarray] | None = None) -> None:
    """Answers until there is nobody left to ask. read: what is done with a request."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # What a codec library prints must not come between the answers.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    requests = sys.stdin.buffer
    try:
        _send(answers, None)
        while header := requests.read(LENGTH.size):
            request, limit = pickle.loads(requests.read(*LENGTH.unpack(header)))
            # Should the parent be gone when a decoder hangs, the kernel ends this process.
            signal.setitimer(signal.ITIMER_REAL, 2 * limit + 1)
            answer = _answer(read or read_clip, request)
            signal.setitimer(signal.ITIMER_REAL, 0)
            _send(answers, answer)
    except BrokenPipeError:
        os._exit(1)


def _answer(read: Callable[[Any], np.ndarray], request: Any) -> np.ndarray | Exception:
    try:
        return read(request)
    except Exception as error:
        try:
            return pickle.loads(pickle.dumps(error))
        except Exception:
            return RuntimeError(traceback.format_exc())


def _send(answers: BinaryIO, answer: np.ndarray | Exception | None) -> None:
    message = pickle.dumps(answer.shape if isinstance(answer, np.ndarray) else answer)
    answers.write(LENGTH.pack(len(message)) + message)
    if isinstance(answer, np.ndarray):
        answers.write(answer.data)
    answers.flush()


if __name__ == "__main__":
    main()
