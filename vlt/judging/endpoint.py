"""Asks a server that speaks OpenAI's chat completions: one's own, or a company's.

What the server sends is bounded in bytes and in time, and no message shows the key, whatever the
server says.
"""

import base64
import dataclasses
import http.client
import ipaddress
import json
import queue
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import logging

from vlt.data.text.text_files import parse_json
from vlt.data.text.texts import printable

ATTEMPTS = 5
FIRST_WAIT = 1.0  # seconds before the second attempt; doubled before each further one
LONGEST_WAIT = 90.0  # seconds that a server may ask for; limits of requests are by the minute
PASSING = (408, 425, 429)  # client errors that another attempt may not meet
SHOWN = 300  # characters of an answer in a message
MOST_BYTES = 1 << 20  # of an answer
LONGEST_NAME = 200  # characters of a model's name

Messages = Sequence[Mapping[str, str]]  # {"role": ..., "content": ...}


class Completion(NamedTuple):
    """An answer, and the model that the server says gave it; '' if it does not say."""

    text: str
    model: str = ""


class EndpointError(RuntimeError):
    """A server that does not answer; the message names its address and says what it did."""


class _Refused(Exception):
    """Another attempt would fail like this one."""


class _Later(Exception):
    """Another attempt may not fail; `seconds` is how long the server asks to wait before it."""

    def __init__(self, reason: str, told: str | None):
        super().__init__(reason)
        waits = told is not None and re.fullmatch(r"\d{1,9}(\.\d{1,9})?", told.strip())
        self.seconds = min(float(told or 0), LONGEST_WAIT) if waits else 0.0


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected question would lose its content, and take the key to another server."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """A server and how to ask it.

    Attributes:
      url: such as http://localhost:8000/v1, with or without /chat/completions.
      model: its name there; '' if the server has only one.
      key: sent as a bearer token, unless ''; surrounding white space is removed.
      timeout: seconds for a whole answer.
      attempts: how often to ask before the server counts as one that does not answer.
      options: further fields of every question, such as {"temperature": 0}.

    Raises:
      EndpointError: a wrong address, timeout or number of attempts, or a key that cannot be sent.
    """

    url: str
    model: str = ""
    key: str = dataclasses.field(default="", repr=False)
    timeout: float = 120.0
    attempts: int = ATTEMPTS
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", self.key.strip())
        _check_address(self.url)
        if not re.fullmatch(r"[!-~]*", self.key):
            raise EndpointError("the key holds spaces or characters that no header can")
        if not self.timeout > 0:
            raise EndpointError(f"timeout must be > 0 seconds, got {self.timeout}")
        if self.attempts < 1:
            raise EndpointError(f"attempts must be >= 1, got {self.attempts}")
        if self.key and self.url.startswith("http:") and not _is_local(self.url):
            logging.warning("the key goes to %s unencrypted: https would hide it", self._address)

    def ask(self, prompt: str) -> str:
        """The answer to a text. Raises as `complete`."""
        return self.complete([{"role": "user", "content": prompt}]).text

    def complete(self, messages: Messages) -> Completion:
        """Returns the answer, after as many attempts as it takes.

        Raises:
          EndpointError: a refusal, or no answer in `attempts` attempts.
        """
        problem, asked_for = "", 0.0
        for attempt in range(self.attempts):
            if attempt:
                time.sleep(max(asked_for, FIRST_WAIT * 2 ** (attempt - 1)))
            try:
                return _within(self.timeout, lambda: self._answer(messages))
            except _Refused as error:
                raise EndpointError(f"{self._address}: {self._safe(str(error))}") from None
            except (OSError, http.client.HTTPException, ValueError, _Later) as error:
                asked_for = error.seconds if isinstance(error, _Later) else 0.0
                reason = str(getattr(error, "reason", error)) or type(error).__name__
                problem = self._safe(reason)
        raise EndpointError(f"{self._address}: {problem} (asked {self.attempts} times)")

    @property
    def _address(self) -> str:
        ending = "/chat/completions"
        return self.url.rstrip("/").removesuffix(ending) + ending

    def _answer(self, messages: Messages) -> Completion:
        content: dict[str, Any] = {**self.options, "messages": list(messages)}
        headers = {"Content-Type": "application/json"}
        if self.model:
            content["model"] = self.model
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(self._address, json.dumps(content).encode(), headers)
        end = time.monotonic() + self.timeout
        try:
            opener = urllib.request.build_opener(_NoRedirects)
            with opener.open(request, timeout=self.timeout) as response:
                body = _read(response, end)
        except urllib.error.HTTPError as error:
            with error:
                told = self._safe(_read(error, end).strip())[:SHOWN]
            reason = f"status {error.code} ({error.reason}): {told}"
            if error.code < 500 and error.code not in PASSING:
                raise _Refused(reason) from None
            raise _Later(reason, error.headers.get("Retry-After")) from None
        found = _completion(body)
        if found is None:
            raise ValueError(f"answers with no chat completion but {self._safe(body)[:SHOWN]!r}")
        if any(self._safe(text, "") != printable(text) for text in found):
            raise _Refused("its answer holds the key, so it is not kept")
        return found

    def _safe(self, text: str, instead: str = "[key]") -> str:
        """The text for a message, without control characters or the key, however it is encoded."""
        if self.key:
            quoted, encoded = urllib.parse.quote(self.key, safe=""), self.key.encode()
            forms = (json.dumps(self.key)[1:-1], quoted, base64.b64encode(encoded).decode())
            for form in (*forms, self.key):
                text = text.replace(form, instead)
        return printable(text)


def _check_address(url: str) -> None:
    """Raises EndpointError for a wrong address, without showing its user, password or query."""
    if not url.startswith(("http://", "https://")):
        raise EndpointError(f"{url!r:.80}: must begin with http:// or https://")
    try:
        parts = urllib.parse.urlsplit(url)
        good = bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or not re.fullmatch(r"[!-~]+", url):
        raise EndpointError("not an address, which is like http://localhost:8000/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise EndpointError(
            f"the address of {parts.hostname} must be without user, password, ? and #; "
            "a key has a place of its own"
        )


def _is_local(url: str) -> bool:
    host = urllib.parse.urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _within(seconds: float, work: Callable[[], Completion]) -> Completion:
    """Returns or raises what `work` does, within `seconds`: sockets bound only each single wait.

    Raises: TimeoutError.
    """
    results: queue.Queue[tuple[Completion, BaseException | None]] = queue.Queue()

    def run() -> None:
        try:
            results.put((work(), None))
        except BaseException as error:
            results.put((Completion(""), error))

    threading.Thread(target=run, daemon=True).start()
    try:
        found, error = results.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"timed out: no whole answer within {seconds:g} seconds") from None
    if error is not None:
        raise error
    return found


def _read(response: Any, end: float) -> str:
    """Reads the body as text.

    Raises: ValueError for more than `MOST_BYTES`; TimeoutError after `end`.
    """
    body = b""
    while chunk := response.read1(1 << 16):
        body += chunk
        if len(body) > MOST_BYTES:
            raise ValueError(f"answers with more than {MOST_BYTES:,} bytes")
        if time.monotonic() > end:
            raise TimeoutError("timed out: its answer takes too long")
    return body.decode("utf-8", "replace")


def _completion(body: str) -> Completion | None:
    """The completion in a body; None if it holds none."""
    try:
        content = parse_json(body)
        text = content["choices"][0]["message"]["content"]
        model = content.get("model", "")
    except (ValueError, LookupError, TypeError):
        return None
    if not isinstance(text, str):
        return None
    return Completion(text, model[:LONGEST_NAME] if isinstance(model, str) else "")
