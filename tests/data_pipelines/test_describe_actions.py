"""Descriptions of actions requested from a server, with a local server as the stand-in."""

import dataclasses
import http.server
import json
import pathlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from data_pipelines.describe_actions import complaint, main, sentences_of, write_descriptions
from vlt.judging import endpoint as chat_endpoint
from vlt.judging.endpoint import Endpoint, EndpointError
from vlt.tasks.descriptions import DescriptionError, read_descriptions

NAMES = ["brush hair", "ApplyEyeMakeup", "Moving something up, then down"]


def completion(content: object) -> str:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]})


def good(prompt: str) -> str:
    """A suitable answer, with as many descriptions as the prompt asks for."""
    count = int(prompt.partition("JSON list of ")[2].split()[0])
    start = "first frame" if "single frame" in prompt else "next step"
    return json.dumps([f"A video of the {start} number {n}." for n in range(count)])


@dataclasses.dataclass
class Server:
    """The stand-in server: the requests it received, and how it replies.

    reply: (prompt, number of earlier requests) -> status and body.
    """

    url: str = ""
    prompts: list[str] = dataclasses.field(default_factory=list)
    requests: list[tuple[str, dict, dict]] = dataclasses.field(default_factory=list)
    reply: Callable[[str, int], tuple[int, str]] = lambda prompt, _: (200, completion(good(prompt)))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    stand_in = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt = body["messages"][0]["content"]
            status, text = stand_in.reply(prompt, len(stand_in.prompts))
            stand_in.prompts.append(prompt)
            stand_in.requests.append((self.path, dict(self.headers), body))
            self.send_response(status)
            if status == 307:
                self.send_header("Location", f"{stand_in.url}/elsewhere")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(chat_endpoint, "FIRST_WAIT", 0.001)
    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stand_in.url = f"http://127.0.0.1:{listening.server_port}/v1"
    threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
    yield stand_in
    listening.shutdown()
    listening.server_close()


def test_both_files_have_the_sentences_of_every_class(server, tmp_path, capsys):
    out = tmp_path / "deep/out"
    paths = write_descriptions(NAMES, Endpoint(server.url), out, count=3)
    assert paths == [out / "spatial.json", out / "temporal.json"]
    for path, start in zip(paths, ("first frame", "next step"), strict=True):
        expected = [f"A video of the {start} number {n}." for n in range(3)]
        assert read_descriptions(path, NAMES) == [expected] * 3
        assert list(json.loads(path.read_text())) == ["0", "1", "2"]
    assert len(server.prompts) == 6
    assert all(
        f'"{name}"' in prompt for name, prompt in zip(NAMES * 2, server.prompts, strict=True)
    )
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "6 of 6 answers are asked for"
    assert told[4] == "4/6 temporal: brush hair"


def test_model_and_key_are_sent_and_are_left_out_where_there_are_none(server):
    Endpoint(f"{server.url}/chat/completions", "small", "secret").ask("JSON list of 1 string")
    Endpoint(f"{server.url}/").ask("JSON list of 1 string")
    (path, headers, body), (other, bare, plain) = server.requests
    assert path == other == "/v1/chat/completions"
    assert body["model"] == "small" and headers["Authorization"] == "Bearer secret"
    assert "model" not in plain and "Authorization" not in bare
    assert "secret" not in repr(Endpoint(server.url, "small", "secret"))


def test_errors_of_the_server_pass(server, tmp_path):
    def reply(prompt: str, before: int) -> tuple[int, str]:
        statuses = {0: 500, 1: 503, 2: 429}
        return statuses.get(before, 200), completion(good(prompt))

    server.reply = reply
    write_descriptions(NAMES[:1], Endpoint(server.url), tmp_path)
    assert len(server.prompts) == 3 + 2


def test_a_server_that_never_recovers_is_named_with_what_it_said(server):
    server.reply = lambda *_: (500, "out of memory")
    with pytest.raises(EndpointError) as raised:
        Endpoint(server.url).ask("why?")
    message = str(raised.value)
    assert f"{server.url}/chat/completions: status 500" in message
    assert "out of memory (asked 5 times)" in message and len(server.prompts) == 5


def test_waits_double(server, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr(chat_endpoint, "FIRST_WAIT", 1.0)
    monkeypatch.setattr(chat_endpoint.time, "sleep", waits.append)
    server.reply = lambda *_: (502, "")
    with pytest.raises(EndpointError):
        Endpoint(server.url).ask("why?")
    assert waits == [1, 2, 4, 8]


@pytest.mark.parametrize("status", [401, 404, 307])
def test_a_refusal_is_told_at_once(server, status):
    server.reply = lambda *_: (status, "no such model, or wrong key")
    with pytest.raises(EndpointError, match=f"status {status} .*: no such model"):
        Endpoint(server.url, key="secret").ask("why?")
    assert len(server.prompts) == 1


def test_a_silent_server_times_out_and_is_asked_again(server):
    def reply(prompt: str, before: int) -> tuple[int, str]:
        if len(asked) < 2:
            asked.append(prompt)
            time.sleep(0.6)
        return 200, completion("late")

    asked: list[str] = []
    server.reply = reply
    assert Endpoint(server.url, timeout=0.2).ask("why?") == "late"
    assert len(asked) == 2


def test_a_server_that_does_not_listen_is_named(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(chat_endpoint, "FIRST_WAIT", 0.001)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        with pytest.raises(
            EndpointError, match=f"{url}/chat/completions: .*refused.*asked 5 times"
        ):
            Endpoint(url).ask("why?")
    with pytest.raises(EndpointError, match="'file:///etc': must begin with http"):
        Endpoint("file:///etc").ask("why?")


@pytest.mark.parametrize("body", ["<html>", "{}", '{"choices": []}', completion(None)])
def test_what_is_no_completion_is_shown(server, body):
    server.reply = lambda *_: (200, body)
    with pytest.raises(EndpointError, match="answers with no chat completion but"):
        Endpoint(server.url).ask("why?")


def test_garbage_is_asked_again_and_then_named_with_its_class(server, tmp_path):
    def reply(prompt: str, before: int) -> tuple[int, str]:
        return 200, completion(good(prompt) if before > 2 else "I cannot do that.")

    server.reply = reply
    write_descriptions(NAMES[:1], Endpoint(server.url), tmp_path / "a")
    assert len(server.prompts) == 5
    server.reply = lambda prompt, _: (
        200,
        completion("I cannot do that." if NAMES[1] in prompt else good(prompt)),
    )
    with pytest.raises(DescriptionError) as raised:
        write_descriptions(NAMES, Endpoint(server.url), tmp_path / "b")
    assert str(raised.value) == (
        "class 'ApplyEyeMakeup': none of 4 answers can be used; 1 sentences instead of 2 in "
        "'I cannot do that.'"
    )
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["answers.json"]


def test_a_later_run_asks_only_for_what_is_missing(server, tmp_path):
    def reply(prompt: str, before: int) -> tuple[int, str]:
        return (404, "gone") if before == 4 else (200, completion(good(prompt)))

    server.reply = reply
    endpoint = Endpoint(server.url, "small")
    with pytest.raises(EndpointError, match="gone"):
        write_descriptions(NAMES, endpoint, tmp_path)
    assert not (tmp_path / "spatial.json").exists()
    server.reply = Server.reply
    del server.prompts[:4]
    write_descriptions(NAMES, endpoint, tmp_path)
    refused, *asked = server.prompts
    assert asked[0] == refused and len(asked) == 2
    write_descriptions(NAMES, endpoint, tmp_path)
    assert len(server.prompts) == 3
    # Other classes, counts or models make a new request.
    write_descriptions([*NAMES, "run"], endpoint, tmp_path)
    assert len(server.prompts) == 5
    write_descriptions(NAMES[:1], endpoint, tmp_path, count=4)
    write_descriptions(NAMES[:1], Endpoint(server.url, "large"), tmp_path)
    assert len(server.prompts) == 9
    assert len(read_descriptions(tmp_path / "temporal.json", NAMES[:1])[0]) == 2


@pytest.mark.parametrize("content", ["[{", "[3]", '{"": ["a"]}', '{"": {"why?": "a"}}'])
def test_kept_answers_of_another_form_are_named(server, tmp_path, content):
    (tmp_path / "answers.json").write_text(content)
    with pytest.raises(DescriptionError, match="answers.json: holds no answers by model"):
        write_descriptions(NAMES, Endpoint(server.url), tmp_path)


@pytest.mark.parametrize(
    "answer",
    [
        '["A man runs fast.", "He  stops\\nnow."]',
        'Sure!\n```json\n[\n  "A man runs fast.",\n  "He stops now."\n]\n```',
        "<think>[two, or three?]</think>\n1. A man runs fast.\n2. He stops now.",
        "Here they are:\n\n- A man runs fast.\n* He stops now.\n",
        "A man runs fast.\nHe stops now.",
    ],
)
def test_sentences_of_answers(answer):
    assert sentences_of(answer) == ["A man runs fast.", "He stops now."]


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        (["A man runs."], "1 sentences instead of 2"),
        (["A man runs.", "a man RUNS."], "a sentence comes twice"),
        (["A man runs.", "12 34 56 78"], "0 words instead of 3 to 60"),
        (["A man runs.", "Yes, sir"], "2 words instead of"),
        (["A man runs.", "word " * 61], "61 words instead of"),
    ],
)
def test_sentences_that_cannot_be_used(sentences, message):
    assert message in complaint(sentences, 2)
    assert complaint(["A man runs.", "He stops it now."], 2) == ""


@pytest.fixture
def command(monkeypatch, server, tmp_path) -> Callable[..., None]:
    def run(*options: object, labels: str = "id,name\n0,brush_hair\n1,walk\n") -> None:
        (tmp_path / "labels.csv").write_text(labels)
        given = ["--labels", tmp_path / "labels.csv", "--endpoint", server.url]
        given += ["--out", tmp_path / "out", *options]
        monkeypatch.setattr(sys, "argv", ["describe_actions", *map(str, given)])
        main()

    return run


def test_command(command, server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MY_KEY", "secret")
    command("--key-env", "MY_KEY", "--model", "small", "--sentences", 1, "--timeout", 9)
    assert "spatial: brush hair" in (told := capsys.readouterr().out)
    assert "temporal.json" in told.splitlines()[-1]
    assert server.requests[0][1]["Authorization"] == "Bearer secret"
    found = read_descriptions(tmp_path / "out/temporal.json", ["brush hair", "walk"])
    assert found == [["A video of the next step number 0."]] * 2
    assert "secret" not in (tmp_path / "out/answers.json").read_text()


@pytest.mark.parametrize(
    ("options", "labels", "message"),
    [
        (["--key-env", "NO_SUCH_KEY"], "id,name\n0,a\n", "no environment variable NO_SUCH_KEY"),
        (["--sentences", 0], "id,name\n0,a\n", "--sentences must be >= 1, got 0"),
        ([], "id,name\n1,a\n", "labels.csv, line 2: must be id 0 and a name"),
        ([], "id,name\n", "labels.csv: holds no classes"),
    ],
)
def test_command_says_what_is_wrong(command, server, capsys, options, labels, message):
    with pytest.raises(SystemExit) as raised:
        command(*options, labels=labels)
    assert raised.value.code and message in capsys.readouterr().err
    assert server.prompts == []


def test_files_are_whole_at_any_moment(server, tmp_path):
    def reply(prompt: str, before: int) -> tuple[int, str]:
        if before:
            held = json.loads((tmp_path / "answers.json").read_text())
            assert len(held[""]) == before
        return 200, completion(good(prompt))

    server.reply = reply
    write_descriptions(NAMES, Endpoint(server.url), tmp_path)
    left = sorted(path.name for path in pathlib.Path(tmp_path).iterdir())
    assert left == ["answers.json", "spatial.json", "temporal.json"]
