"""Questions to a server that speaks OpenAI's chat completions: an own one, or that of a company."""

import dataclasses
import http.client
import json
import time
import urllib.error
import urllib.request
from typing import Any

ATTEMPTS = 5
FIRST_WAIT = 1.0  # seconds before the second attempt; doubled before each further one
PASSING = (408, 425, 429)  # client errors that another attempt may not meet
SHOWN = 300  # characters of an answer in a message


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
      key: sent as a bearer token, unless ''.
      timeout: seconds without a sign of the server.
    """

    url: str
    model: str = ""
    key: str = dataclasses.field(default="", repr=False)
    timeout: float = 120.0

    def ask(self, prompt: str) -> str:
        """The answer, after as many attempts as it takes.

        Raises:
          EndpointError: no address of a server, a refusal, or no answer in `ATTEMPTS` attempts.
        """
        if not self.url.startswith(("http://", "https://")):
            raise EndpointError(f"{self.url!r}: must begin with http:// or https://")
        problem = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(FIRST_WAIT * 2 ** (attempt - 1))
            try:
                return self._answer(prompt)
            except _Refused as error:
                raise EndpointError(f"{self._address}: {error}") from None
            except (OSError, http.client.HTTPException, ValueError) as error:
                problem = str(getattr(error, "reason", error)) or type(error).__name__
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
        try:
            opener = urllib.request.build_opener(_NoRedirects)
            with opener.open(request, timeout=self.timeout) as response:
                body = response.read().decode("utf-8", "replace")
        except urllib.error.HTTPError as error:
            told = error.read(SHOWN).decode("utf-8", "replace").strip()
            reason = f"status {error.code} ({error.reason}): {told}"
            if error.code < 500 and error.code not in PASSING:
                raise _Refused(reason) from None
            raise ValueError(reason) from None
        return _text(body)


def _text(body: str) -> str:
    try:
        text = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        text = None
    if not isinstance(text, str):
        raise ValueError(f"answers with no chat completion but {body[:SHOWN]!r}")
    return text
