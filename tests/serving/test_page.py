"""The page's server: what it finds, what it serves, and whom it refuses."""

import io
import os
import pathlib
import shutil
import socket
import threading
import time
from types import SimpleNamespace

import pytest

pytest.importorskip("lancedb")
testclient = pytest.importorskip("starlette.testclient")

from PIL import Image  # noqa: E402

import vlt  # noqa: E402
from vlt import serve  # noqa: E402
from vlt.command_line.serve import parse  # noqa: E402
from vlt.data import moving_shapes  # noqa: E402
from vlt.serving.app import make_app  # noqa: E402
from vlt.serving.library import Library  # noqa: E402

HOST = "http://127.0.0.1"
OWN = {"x-vlt": "1"}


@pytest.fixture(scope="module")
def model():
    return vlt.load("tiny_clip")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Clips, one of which the tests change."""
    folder = tmp_path_factory.mktemp("shapes") / "it's 100%"
    shutil.move(moving_shapes.generate(folder / "a", 2).parent / "videos", folder / "videos")
    return folder / "videos"


@pytest.fixture(scope="module")
def library(videos, model, tmp_path_factory):
    uri = tmp_path_factory.mktemp("made") / "index"
    with Library(vlt.index(uri, [str(videos)], model, window="1s")) as library:
        yield library


@pytest.fixture(scope="module")
def page(library):
    with testclient.TestClient(make_app(library, ["127.0.0.1"]), HOST) as client:
        yield client


def test_the_page_and_its_files_load_nothing_from_elsewhere(page):
    html = page.get("/").text
    assert "http" not in html and '<script src="/page.js" defer>' in html
    for name in ("/", "/page.js", "/page.css"):
        answer = page.get(name)
        assert (
            answer.status_code == 200
            and "default-src 'none'" in answer.headers["content-security-policy"]
        )


def test_search_finds_as_the_index_does(page, library):
    found = page.get("/api/search", params={"query": "a red circle", "top": 3}).json()["found"]
    expected = library.index.search("a red circle", top=3)
    assert [(each["path"], each["start"], each["end"]) for each in found] == [
        (each.path, each.start, each.end) for each in expected
    ]
    assert page.get("/api/about").json() | {"hours": 0} == {
        "videos": 4, "hours": 0, "windows": len(library.index), "index": library.index.store.uri,
        "model": "", "merges": False, "chats": False,
    }  # fmt: skip


@pytest.mark.parametrize("within", ["forward", "it's 100%", "' OR path = path --", "%", "_"])
def test_paths_are_filtered_by_a_text_and_nothing_it_says_is_obeyed(page, within):
    found = page.get("/api/search", params={"query": "a cross", "within": within}).json()["found"]
    assert all(within in each["path"] for each in found)
    assert bool(found) == (not within.startswith("' OR"))


def test_what_looks_alike(page, library, videos):
    clip = library.entries[0].path
    found = page.get("/api/similar", params={"video": 0, "at": 1.0}).json()["found"]
    # The same clip backwards holds the same frames.
    assert all(each["path"] != clip for each in found)
    assert pathlib.Path(found[0]["path"]).stem[:6] == pathlib.Path(clip).stem[:6]
    with open(clip, "rb") as file:
        found = page.post("/api/upload", content=file.read(), headers=OWN).json()["found"]
    assert found[0]["score"] > 0.8
    picture = page.get("/frame/0/5")
    assert picture.headers["content-type"] == "image/jpeg" and picture.content[:2] == b"\xff\xd8"
    assert page.post("/api/upload", content=picture.content, headers=OWN).json()["found"]
    assert "merges no tokens" in page.get("/tokens/0?start=0&end=1").json()["error"]
    asked = page.post("/api/ask?video=0&start=0&end=1", content="what?", headers=OWN)
    assert "no chat model is loaded" in asked.json()["error"]


def test_files_are_served_in_ranges_as_they_were_indexed(page, library):
    content = pathlib.Path(library.entries[1].path).read_bytes()
    answer = page.get("/video/1", headers={"range": "bytes=100-199"})
    assert answer.status_code == 206 and answer.content == content[100:200]
    assert page.get("/video/1").content == content


def test_nothing_but_videos_of_the_index_is_served(page, library, tmp_path):
    for path in ("/video/4", "/video/-1", "/video/../../etc/passwd", "/assets", "/page.html", "/x"):
        assert page.get(path).status_code == 404
    entry = library.entries[3]
    assert page.get("/frame/3/1").status_code == 200
    kept = tmp_path / "kept.mov"
    shutil.move(entry.path, kept)
    secret = tmp_path / "secret"
    secret.write_bytes(b"x" * entry.size)
    os.symlink(secret, entry.path)
    try:
        assert "has changed since" in page.get("/video/3").json()["error"]
        assert page.get("/frame/3/0").status_code == 404
        assert page.get("/frame/3/1").status_code == 404, "though it was shown before"
    finally:
        os.unlink(entry.path)
        shutil.move(kept, entry.path)


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/api/search", 400, "a query is needed"),
        ("/api/search?query=" + "x" * 2001, 400, "2,001 characters; at most 2,000"),
        ("/api/search?query=" + "red+" * 100, 400, "a query of 102 tokens"),
        ("/api/search?query=x&top=0", 400, "top must be a whole number from 1 to 200"),
        ("/api/search?query=x&top=" + "9" * 5000, 400, "top must be"),
        ("/api/search?query=x&top=00000000199999", 400, "top must be"),
        ("/frame/0/" + "9" * 400, 404, "no such frame"),
        ("/video/" + "9" * 400, 404, "no such video"),
        ("/api/similar?video=x&at=0", 400, "video must be a number"),
        ("/api/similar?video=0&at=nan", 400, "at must be a number"),
        ("/api/similar?video=9&at=0", 404, "no such video"),
        ("/tokens/0?start=2&end=1", 400, "end must be after start"),
    ],
)
def test_what_cannot_be_answered_is_told(page, path, status, message):
    answer = page.get(path)
    assert answer.status_code == status and message in answer.json()["error"]


def test_uploads_are_bounded_and_from_this_page(page, monkeypatch):
    assert page.post("/api/upload", content=b"x").status_code == 403
    assert page.post("/api/upload", content=b"", headers=OWN).status_code == 400
    junk = page.post("/api/upload", content=b"no video" * 100, headers=OWN)
    assert junk.status_code == 400 and "cannot be opened" in junk.json()["error"]
    monkeypatch.setattr("vlt.serving.app.MOST_BYTES", 100)
    assert page.post("/api/upload", content=b"x" * 101, headers=OWN).status_code == 413
    asked = page.post("/api/ask?video=0&start=0&end=1", content=b"x" * 8001, headers=OWN)
    assert asked.status_code == 413 and "at most 8,000 bytes" in asked.json()["error"]


def test_a_clip_as_a_gif_can_be_uploaded(page, library):
    frames = library.index.model.read_videos(library.entries[0].path)[0]
    first, *others = map(Image.fromarray, frames)
    content = io.BytesIO()
    first.save(content, "GIF", save_all=True, append_images=others, duration=100)
    answer = page.post("/api/upload", content=content.getvalue(), headers=OWN)
    assert answer.status_code == 200 and answer.json()["found"]


def test_other_names_and_strangers_are_refused(library):
    app = make_app(library, ["127.0.0.1"], token="a long secret")
    with testclient.TestClient(app, HOST) as client:
        assert client.get("/", headers={"host": "elsewhere.example"}).status_code == 400
        for path in ("/", "/api/about", "/video/0", "/?token=wrong"):
            assert client.get(path).status_code == 401
        assert client.get("/?token=a long secret").status_code == 200
        assert client.get("/video/0").status_code == 200  # by the cookie


def test_the_address_that_is_printed_works(library, monkeypatch, capsys):
    tried = []

    class Server:
        def __init__(self, config):
            self.config = config

        def run(self, sockets):
            address = capsys.readouterr().err.strip()
            base = address.partition("/?")[0]
            with testclient.TestClient(self.config.app, base) as client:
                tried.append((address, client.get(address).status_code))
            tried.append(self.config.timeout_graceful_shutdown)

    monkeypatch.setattr("uvicorn.Server", Server)
    # The real one would bind the log to this test's stderr.
    monkeypatch.setattr("uvicorn.Config", lambda app, **rest: SimpleNamespace(app=app, **rest))
    monkeypatch.setattr(serve, "_listen", lambda *_: socket.create_server(("127.0.0.1", 0)))
    asked = [f"--index={library.index.store.uri}", "--model=tiny_clip", "--host=::1"]
    assert serve.main([*asked, "--token=a b&c +d%20"]) == 0
    (address, status), patience = tried
    assert address.startswith("http://[::1]:") and address.endswith("/?token=a+b%26c+%2Bd%2520")
    assert status == 200 and patience == 3


def test_a_full_line_is_told(library, monkeypatch):
    slow, begun = threading.Event(), threading.Event()

    def search(*_):
        begun.set()
        slow.wait(20)
        return []

    monkeypatch.setattr(library, "search", search)
    app = make_app(library, ["127.0.0.1"], workers=1, waiting=1)
    with testclient.TestClient(app, HOST) as client:
        ask = lambda: client.get("/api/search?query=x")  # noqa: E731
        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        begun.wait(10)
        time.sleep(0.3)
        full = ask()
        slow.set()
        for thread in threads:
            thread.join()
        assert full.status_code == 503 and full.headers["retry-after"]
        assert ask().status_code == 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host=0.0.0.0"], "--host=0.0.0.0: others can reach it, so it needs --token=SECRET"),
        (["--host=0.0.0.0", "--token=short"], "at least 8 characters"),
        (["--port=65536"], "'65536': a whole number up to 65535 is needed"),
    ],
)
def test_addresses_that_are_refused(capsys, arguments, message):
    with pytest.raises(SystemExit):
        parse("vlt serve", ["--index=x", *arguments])
    assert message in capsys.readouterr().err


def test_an_address_that_cannot_be_had_is_told_before_anything_is_loaded(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert serve.main([f"--index={tmp_path}", f"--port={port}"]) == 1
    told = f"error: --host=127.0.0.1 --port={port}: Address already in use\n"
    assert capsys.readouterr().err == told
