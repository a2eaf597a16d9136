"""Sends a judge many requests, several at a time, each until a reply is readable, within bounds."""

import dataclasses
import datetime
import json
import queue
import shlex
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from vlt.judging.endpoint import MOST_BYTES, Completion, EndpointError, Messages
from vlt.judging.records import Reply, Request

# Failures in a row after which a judge is not asked any more: one that never answered, and one
# that did. A single request may be refused for what it says.
FIRST_FAILURES, MOST_FAILURES = 3, 5
SHOWN = 300  # characters of what a command says


class Judge(Protocol):
    """Anything that answers messages within a bounded time."""

    def complete(self, messages: Messages) -> Completion:
        """Returns the answer. Raises EndpointError if there is none."""
        ...


@dataclasses.dataclass(frozen=True)
class Command:
    """A program that is run for each request: it reads the messages as JSON and prints the reply.
    timeout: seconds for one request."""

    line: str
    timeout: float = 120.0

    def complete(self, messages: Messages) -> Completion:
        """Returns its output. Raises EndpointError if it fails, is too slow or prints too much."""
        try:
            done = subprocess.run(
                shlex.split(self.line),
                input=json.dumps(list(messages)).encode(),
                capture_output=True,
                timeout=self.timeout,
            )
        except subprocess.TimeoutExpired:
            raise EndpointError(f"{self.line}: no answer within {self.timeout:g} seconds") from None
        except (OSError, ValueError) as error:
            raise EndpointError(f"{self.line}: cannot be run: {error}") from None
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip()[-SHOWN:]
            raise EndpointError(f"{self.line}: exit status {done.returncode}: {said}")
        if len(done.stdout) > MOST_BYTES:
            raise EndpointError(f"{self.line}: answers with more than {MOST_BYTES:,} bytes")
        return Completion(done.stdout.decode("utf-8", "replace").replace("\0", "\ufffd"))


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A reply to a request, or why none came."""

    request: Request
    reply: Reply | None = None
    failure: str = ""


def ask_all(
    judge: Judge,
    name: str,
    requests: Sequence[tuple[Request, int]],
    readable: Callable[[Reply], bool],
    parallel: int = 4,
) -> Iterator[Outcome]:
    """Asks a judge all requests and yields the outcomes as they come.

    A reply that is not `readable` is asked for again. A judge that fails at its first
    `FIRST_FAILURES` requests, or at `MOST_FAILURES` in a row, is not asked any more.

    Args:
        name: the judge's, if it does not state one.
        requests: each with how often it may be asked.
        parallel: number of requests at a time.

    Raises:
        EndpointError: the judge is not asked any more; all earlier outcomes were yielded.
    """
    waiting: queue.SimpleQueue[tuple[Request, int]] = queue.SimpleQueue()
    for each in requests:
        waiting.put(each)
    found: queue.SimpleQueue[Outcome | BaseException | None] = queue.SimpleQueue()
    stopped = threading.Event()

    def work() -> None:
        try:
            while not stopped.is_set():
                request, tries = waiting.get_nowait()
                for outcome in _asked(judge, name, request, tries, readable):
                    found.put(outcome)
        except queue.Empty:
            found.put(None)
        except BaseException as error:
            found.put(error)

    workers = min(parallel, len(requests))
    for _ in range(workers):
        # Daemons, so that stopping this program does not wait for a judge.
        threading.Thread(target=work, daemon=True).start()
    try:
        yield from _until_it_fails(found, workers)
    finally:
        stopped.set()


def _until_it_fails(
    found: "queue.SimpleQueue[Outcome | BaseException | None]", workers: int
) -> Iterator[Outcome]:
    failures, ever = 0, False
    while workers:
        outcome = found.get()
        if outcome is None:
            workers -= 1
            continue
        if isinstance(outcome, BaseException):
            raise outcome
        yield outcome
        failures = failures + 1 if outcome.failure else 0
        ever = ever or not outcome.failure
        if failures >= (MOST_FAILURES if ever else FIRST_FAILURES):
            often = f"{failures} times in a row" if ever else f"at the first {failures} requests"
            raise EndpointError(f"the judge failed {often}: {outcome.failure}")


def _asked(
    judge: Judge, name: str, request: Request, tries: int, readable: Callable[[Reply], bool]
) -> Iterator[Outcome]:
    for _ in range(tries):
        try:
            text, model = judge.complete(request.messages)
        except EndpointError as error:
            yield Outcome(request, failure=str(error))
            return
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        reply = Reply(request.id, request.criterion, text, model or name, today)
        yield Outcome(request, reply)
        if readable(reply):
            return
