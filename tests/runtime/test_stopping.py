"""SIGTERM and SIGINT as requests to stop, in processes that receive them."""

import signal
import subprocess
import sys
import textwrap
import time

import pytest
from helpers import ROOT, environment

SIGNALS = (signal.SIGTERM, signal.SIGINT)
INSIDE = """
    import hashlib, queue, sys, time
    from vlt.runtime import stopping
    try:
        with stopping.signals():
            {body}
    except stopping.Stopped:
        print("stopped in a sentence", file=sys.stderr)
        stopping.end(0)
"""
WAITS = {
    "python": "print('ready', flush=True); queue.Queue().get()",
    "deferred": "with stopping.deferred(): print('ready', flush=True); time.sleep(60)",
    # A library not written in Python, such as a compiler.
    "library": "print('ready', flush=True); hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)",
}


def start(wait):
    code = textwrap.dedent(INSIDE).format(body=WAITS[wait])
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(1), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout.readline() == "ready\n"
    return child


@pytest.mark.parametrize("signum", SIGNALS)
def test_one_ends_a_wait_in_a_sentence(signum):
    child = start("python")
    child.send_signal(signum)
    _, errors = child.communicate(timeout=20)
    assert child.returncode == 0
    # In between, a thread may say that a second signal ends the process at once.
    assert "Traceback" not in errors and "stopped in a sentence" in errors


@pytest.mark.quick(2)
@pytest.mark.parametrize("wait", ["deferred", "library"])
@pytest.mark.parametrize("signum", SIGNALS)
def test_a_second_one_ends_at_once_whatever_goes_on(wait, signum):
    child = start(wait)
    time.sleep(0.5)  # so that it is waiting by now
    child.send_signal(SIGNALS[0])
    child.send_signal(SIGNALS[0])  # at the same time, as to a process and its group: counts once
    time.sleep(1)
    assert child.poll() is None
    child.send_signal(signum)
    _, errors = child.communicate(timeout=20)
    assert child.returncode == 128 + signum
    assert "Traceback" not in errors and errors.splitlines()[-1] == "ended at once"


def test_handlers_are_those_of_before_afterwards():
    from vlt.runtime import stopping

    before = [signal.getsignal(signum) for signum in SIGNALS]
    with stopping.signals(), stopping.deferred():
        signal.raise_signal(signal.SIGTERM)
        assert stopping.requested()
        with pytest.raises(stopping.Stopped):
            stopping.check()
    assert [signal.getsignal(signum) for signum in SIGNALS] == before
    assert not stopping.requested()
    stopping.check()
