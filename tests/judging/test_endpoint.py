"""The chat endpoint's client against servers that send too much, too slowly or something else."""

import base64
import json
import logging
import re
import socket
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator

import pytest

from data_pipelines.describe_actions import complaint, main, sentences_of
from vlt.judging import endpoint as chat_endpoint
from vlt.judging.endpoint import Endpoint, EndpointError

KEY = 'sk-"very/secret+key"'

Say = Callable[[socket.socket], None]


def completion(content: object) -> bytes:
    return json.dumps({"choices": [{"message": {"content": content}}]}).encode()


def reply(body: bytes, status: str = "200 OK", headers: str = "") -> Say:
    head = f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode()
    return lambda connection: connection.sendall(head + body)


class Server:
    """A server at `url` that answers every request with `say`."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}/v1"
        self.asked: list[bytes] = []  # the head of each request
        self.closing = threading.Event()
        self.say: Say = reply(completion("yes"))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            try:
                with connection.makefile("rb") as file:
                    head = b"".join(iter(file.readline, b"\r\n"))
                    file.read(int(re.search(rb"(?i)content-length: (\d+)", head)[1]))
                self.asked.append(head)
                self.say(connection)
            except OSError:
                pass

    def close(self) -> None:
        self.closing.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(chat_endpoint, "FIRST_WAIT", 0.001)
    found = Server()
    yield found
    found.close()


def test_space_around_a_key_is_taken_off(server):
    assert Endpoint(server.url, key=f" {KEY}\r\n").ask("why?") == "yes"
    assert f"Authorization: Bearer {KEY}\r\n".encode() in server.asked[0]


@pytest.mark.parametrize("key", ["two words", "line\r\nX-Other: 1", "caf\u00e9", "nul\0"])
def test_a_key_that_no_header_holds_is_refused_unseen(server, key):
    with pytest.raises(EndpointError) as raised:
        Endpoint(server.url, key=key)
    assert "the key holds spaces" in str(raised.value) and key not in str(raised.value)
    assert server.asked == []


@pytest.mark.parametrize("status", ["200 OK", "401 No", "500 No"])
@pytest.mark.parametrize(
    "form",
    [
        str,
        lambda key: json.dumps({"error": f"wrong: Bearer {key}"}),
        lambda key: urllib.parse.quote(key, safe=""),
        lambda key: base64.b64encode(key.encode()).decode(),
        lambda key: "x" * (chat_endpoint.SHOWN - 5) + key,  # at the point where messages are cut
    ],
)
def test_a_server_that_echoes_the_key_does_not_show_it(server, form, status):
    written = form(KEY)
    server.say = reply(written.encode(), status)
    with pytest.raises(EndpointError) as raised:
        Endpoint(server.url, key=KEY).ask("why?")
    message = str(raised.value)
    assert "[key]" in message or "xxx[k" in message
    assert KEY not in message and written[-8:] not in message and "sk-" not in message


def test_a_key_in_the_reason_or_in_the_answer_is_not_kept(server):
    server.say = reply(b"", f"403 {KEY}")
    with pytest.raises(EndpointError, match=r"status 403 \(\[key\]\)"):
        Endpoint(server.url, key=KEY).ask("why?")
    server.say = reply(completion(f"A video of {KEY}."))
    with pytest.raises(EndpointError, match="its answer holds the key"):
        Endpoint(server.url, key=KEY).ask("why?")


@pytest.mark.parametrize(
    ("told", "waits"),
    [("7", [7, 7, 7, 8]), ("2.5", [2.5, 2.5, 4, 8]), ("99999", [90] * 4), ("-1", [1, 2, 4, 8]),
     ("soon", [1, 2, 4, 8]), ("9" * 400, [1, 2, 4, 8]), ("nan", [1, 2, 4, 8])],
)  # fmt: skip
def test_a_server_that_asks_to_wait_is_obeyed_within_bounds(server, monkeypatch, told, waits):
    slept = []
    monkeypatch.setattr(chat_endpoint, "FIRST_WAIT", 1.0)
    monkeypatch.setattr(chat_endpoint.time, "sleep", slept.append)
    server.say = reply(b"", "429 Too Many Requests", f"Retry-After: {told}\r\n")
    with pytest.raises(EndpointError, match="status 429"):
        Endpoint(server.url).ask("why?")
    assert slept == waits


def test_an_answer_without_end_is_cut(server, monkeypatch):
    monkeypatch.setattr(chat_endpoint, "MOST_BYTES", 100_000)
    sent: list[int] = []

    def flood(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(1000):
            connection.sendall(b" " * 100_000)
            sent.append(1)

    server.say = flood
    with pytest.raises(EndpointError, match=r"more than 100,000 bytes \(asked 5 times\)"):
        Endpoint(server.url).ask("why?")
    assert len(sent) < 5 * 500


@pytest.mark.parametrize("start", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: ", b""])
def test_an_answer_that_drips_ends_with_the_time(server, start):
    def drip(connection: socket.socket) -> None:
        connection.sendall(start)
        while not server.closing.wait(0.02):
            connection.sendall(b"x")

    server.say = drip
    started = time.monotonic()
    with pytest.raises(EndpointError, match="timed out"):
        Endpoint(server.url, timeout=0.3, attempts=2).ask("why?")
    assert time.monotonic() - started < 2


def test_one_attempt_is_the_least(server):
    assert Endpoint(server.url, attempts=1).attempts == 1
    with pytest.raises(EndpointError, match="attempts must be >= 1, got 0"):
        Endpoint(server.url, attempts=0)


def test_a_redirect_takes_the_key_nowhere(server):
    other = Server()
    for status in ("301 Moved", "302 Found", "303 See", "307 Temporary", "308 Permanent"):
        server.say = reply(b"", status, f"Location: {other.url}\r\n")
        with pytest.raises(EndpointError, match=f"status {status[:3]}"):
            Endpoint(server.url, key=KEY).ask("why?")
    other.close()
    assert other.asked == []


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"choices":' * 50_000,
        b"\xff\xfe\x00",
        b"[]",
        b'{"choices": {"0": 1}}',
        b'{"choices": [{"message": "x"}]}',
        completion(["x"]),
        completion(3),
        completion("half \ud83d"),
        completion("nul \0"),
        b'{"choices": [{"message": {"content": NaN}}]}',
        b"\x1f\x8b\x08\x00",
        b"\x1b[2Jcleared",
    ],
)
def test_what_is_no_completion_is_said_in_one_printable_line(server, body):
    server.say = reply(body, headers="Content-Encoding: gzip\r\n")
    with pytest.raises(EndpointError, match="no chat completion but") as raised:
        Endpoint(server.url).ask("why?")
    assert str(raised.value).isprintable() and len(str(raised.value)) < 2 * chat_endpoint.SHOWN


def test_control_characters_of_errors_are_not_printed(server):
    server.say = reply(b"\x1b[2J\x9bgone", "404 No")
    with pytest.raises(EndpointError) as raised:
        Endpoint(server.url).ask("why?")
    assert str(raised.value).isprintable() and "gone" in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://user:hush@127.0.0.1/v1",
        "https://hush@host/v1",
        "https://host/v1?key=hush",
        "https://host/v1#hush",
        "https://host:hush/v1",
        "https://[hush/v1",
        "https:///hush",
        "https://host/v1 hush",
        "https://host/v1\r\nhush",
    ],
)
def test_addresses_with_secrets_or_without_a_host_are_refused_unseen(url):
    with pytest.raises(EndpointError, match="address") as raised:
        Endpoint(url)
    assert "hush" not in str(raised.value)


def test_a_key_over_an_open_line_is_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        for host in ("https://host", "http://localhost:8", "http://127.0.0.2", "http://[::1]"):
            Endpoint(f"{host}/v1", key=KEY)
        Endpoint("http://host/v1")
        assert not caplog.records
        Endpoint("http://host/v1", key=KEY)
    assert "goes to http://host/v1/chat/completions unencrypted" in caplog.text
    assert KEY not in caplog.text


def test_a_key_in_place_of_its_variable_is_not_printed(tmp_path, monkeypatch, capsys):
    (tmp_path / "labels.txt").write_text("run\n")
    given = ["--labels", tmp_path / "labels.txt", "--endpoint", "http://localhost/v1"]
    given += ["--out", tmp_path, "--key-env", "sk-hush"]
    monkeypatch.setattr(sys, "argv", ["describe_actions", *map(str, given)])
    with pytest.raises(SystemExit):
        main()
    told = capsys.readouterr().err
    assert "there is no environment variable of the given name" in told and "hush" not in told


def test_hostile_answers_take_no_time():
    started = time.process_time()
    for answer in ("[" * 10**6, "<think>" * 10**5, "[" * 10**5 + "]" * 10**5, "]" * 10**6):
        sentences_of(answer)
    assert time.process_time() - started < 2
    assert sentences_of("I wonder.</think>\nA man runs.") == ["A man runs."]
    assert "a control character" in complaint(["A man\x1b[2J runs fast."], 1)
