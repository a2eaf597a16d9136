"""Questions to a server that speaks OpenAI's chat completions: an own one, or that of a company.

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
from collections.abc import Callable
from typing import Any

from absl import logging

from vlt.data.text_files import parse_json
from vlt.data.texts import printable

ATTEMPTS = 5
FIRST_WAIT = 1.0  # seconds before the second attempt; doubled before each further one
PASSING = (408, 425, 429)  # client errors that another attempt may not meet
SHOWN = 300  # characters of an answer in a message
MOST_BYTES = 1 << 20  # of an answer


class EndpointError(RuntimeError):
    """A server that does not answer; the message names its address and says what it did."""


class _Refused(Exception):
    """Another attempt would fail like this one."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected question would lose its content, and take the key to another server."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """A server and how to ask it.

    Attributes:
      url: such as http://localhost:8000/v1, with or without /chat/completions.
      model: its name there; '' where the server has but one.
      key: sent as a bearer token, unless ''; white space around it is taken off.
      timeout: seconds for a whole answer.

    Raises:
      EndpointError: no address of a server, or a key that cannot be sent.
    """

    url: str
    model: str = ""
    key: str = dataclasses.field(default="", repr=False)
    timeout: float = 120.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", self.key.strip())
        _check_address(self.url)
        if not re.fullmatch(r"[!-~]*", self.key):
            raise EndpointError("the key holds spaces or characters that no header can")
        if not self.timeout > 0:
            raise EndpointError(f"timeout must be > 0 seconds, got {self.timeout}")
        if self.key and self.url.startswith("http:") and not _is_local(self.url):
            logging.warning("the key goes to %s unencrypted: https would hide it", self._address)

    def ask(self, prompt: str) -> str:
        """The answer, after as many attempts as it takes.

        Raises:
          EndpointError: a refusal, or no answer in `ATTEMPTS` attempts.
        """
        problem = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(FIRST_WAIT * 2 ** (attempt - 1))
            try:
                return _within(self.timeout, lambda: self._answer(prompt))
            except _Refused as error:
                raise EndpointError(f"{self._address}: {self._safe(str(error))}") from None
            except (OSError, http.client.HTTPException, ValueError) as error:
                reason = str(getattr(error, "reason", error)) or type(error).__name__
                problem = self._safe(reason)
        raise EndpointError(f"{self._address}: {problem} (asked {ATTEMPTS} times)")

    @property
    def _address(self) -> str:
        ending = "/chat/completions"
        return self.url.rstrip("/").removesuffix(ending) + ending

    def _answer(self, prompt: str) -> str:
        content: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}]}
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
            raise ValueError(reason) from None
        text = _text(body)
        if text is None:
            raise ValueError(f"answers with no chat completion but {self._safe(body)[:SHOWN]!r}")
        if self._safe(text, "") != printable(text):
            raise _Refused("its answer holds the key, so it is not kept")
        return text

    def _safe(self, text: str, instead: str = "[key]") -> str:
        """The text for a message: without the key, in whatever way it is written, or controls."""
        if self.key:
            quoted, encoded = urllib.parse.quote(self.key, safe=""), self.key.encode()
            forms = (json.dumps(self.key)[1:-1], quoted, base64.b64encode(encoded).decode())
            for form in (*forms, self.key):
                text = text.replace(form, instead)
        return printable(text)


def _check_address(url: str) -> None:
    """Raises EndpointError without showing what may be secret: users, passwords and queries."""
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


def _within(seconds: float, work: Callable[[], str]) -> str:
    """What `work` returns or raises, within so many seconds: sockets bound but each single wait.

    Raises: TimeoutError.
    """
    results: queue.Queue[tuple[str, BaseException | None]] = queue.Queue()

    def run() -> None:
        try:
            results.put((work(), None))
        except BaseException as error:
            results.put(("", error))

    threading.Thread(target=run, daemon=True).start()
    try:
        text, error = results.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"timed out: no whole answer within {seconds:g} seconds") from None
    if error is not None:
        raise error
    return text


def _read(response: Any, end: float) -> str:
    """The body, as text.

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


def _text(body: str) -> str | None:
    """The text of a completion; None where it is something else."""
    try:
        text = parse_json(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        return None
    return text if isinstance(text, str) else None
