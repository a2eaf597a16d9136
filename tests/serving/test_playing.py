"""What was merged into one token of a clip, answers about it, and work for closed connections."""

import socket
import threading
import time
from types import SimpleNamespace

import pytest

pytest.importorskip("lancedb")
pytest.importorskip("uvicorn")
testclient = pytest.importorskip("starlette.testclient")

import served  # noqa: E402

import vlt  # noqa: E402
from vlt.serving.app import make_app  # noqa: E402
from vlt.serving.library import Library  # noqa: E402

HOST = "http://127.0.0.1"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A library of a model that merges tokens."""
    model = vlt.load("tiny_clip", methods={"tome": {"r": 1}})
    videos = served.videos(tmp_path_factory.mktemp("shapes"), pairs=1)
    index = vlt.index(
        tmp_path_factory.mktemp("made") / "index", [str(videos)], model, window="whole"
    )
    with Library(index) as library:
        yield library


@pytest.mark.slow
def test_tokens_and_answers_of_a_clip(library, monkeypatch):
    monkeypatch.setattr(library, "chat", vlt.load("tiny_chat"))
    with testclient.TestClient(make_app(library, ["127.0.0.1"]), HOST) as page:
        about = page.get("/api/about").json()
        assert about["merges"] and about["chats"]
        picture = page.get("/tokens/0?start=0&end=2.5")
        assert picture.content[:4] == b"\x89PNG"
        asked = {"content": "What happens?", "headers": {"x-vlt": "1"}}
        answer = page.post("/api/ask?video=0&start=0&end=2.5", **asked).json()["answer"]
        expected = library.chat.chat()
        expected.show([library.entries[0].path])
        assert answer == expected.ask("What happens?")
        asked["content"] = " "
        assert page.post("/api/ask?video=0&start=0&end=2.5", **asked).status_code == 400


def test_work_for_a_connection_that_was_closed_ends():
    ended, stopped = threading.Event(), threading.Event()

    def ask(number, span, question, stop):
        if stop.wait(20):
            stopped.set()
        ended.set()
        return ""

    with served.server(make_app(SimpleNamespace(ask=ask), ["127.0.0.1"])) as port:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(
                b"POST /api/ask?video=0&start=0&end=1 HTTP/1.1\r\nHost: 127.0.0.1\r\nx-vlt: 1\r\n"
                b"Content-Length: 4\r\n\r\nwhat"
            )
            time.sleep(1)
        assert ended.wait(10) and stopped.is_set()


def test_uploads_under_way_are_in_the_line():
    app = make_app(SimpleNamespace(search=lambda *_: []), ["127.0.0.1"], workers=1, waiting=0)
    with served.server(app) as port, socket.create_connection(("127.0.0.1", port)) as upload:
        head = b" HTTP/1.1\r\nHost: 127.0.0.1\r\nx-vlt: 1\r\n"
        upload.sendall(b"POST /api/upload" + head + b"Content-Length: 9\r\n\r\nbegun")
        time.sleep(0.5)
        with socket.create_connection(("127.0.0.1", port)) as second:
            second.sendall(b"GET /api/search?query=x" + head + b"\r\n")
            assert b" 503 " in second.recv(100)
