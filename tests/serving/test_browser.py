"""The page in headless Chromium: what people do on it, and what they are told when it fails."""

import concurrent.futures
import pathlib
import shutil
import time

import numpy as np
import pytest

pytest.importorskip("lancedb")
pytest.importorskip("uvicorn")
playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

import served  # noqa: E402
from PIL import Image  # noqa: E402

import vlt  # noqa: E402
from vlt.serving.app import make_app  # noqa: E402
from vlt.serving.library import Library  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not here; apt-get install chromium"),
    pytest.mark.xdist_group("browser"),
]
WAIT = 60_000  # ms


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    model = vlt.load("tiny_clip", methods={"tome": {"r": 1}})
    videos = served.videos(tmp_path_factory.mktemp("shapes"), pairs=3)
    uri = tmp_path_factory.mktemp("made") / "index"
    for path in videos.iterdir():  # a format that browsers play
        _as_webm(path)
    index = vlt.index(uri, [str(videos)], model, window="1s")
    with Library(index) as library:
        yield library


def _as_webm(path: pathlib.Path) -> None:
    import av

    from vlt.data.video.decode import Video

    with Video(str(path)) as video:
        frames = video.read(range(len(video)))
    with av.open(str(path.with_suffix(".webm")), "w") as file:
        stream = file.add_stream("libvpx", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for frame in frames.repeat(2, 1).repeat(2, 2):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame))))
        file.mux(stream.encode())
    path.unlink()


@pytest.fixture(scope="module")
def address(library):
    with served.server(make_app(library, ["127.0.0.1"])) as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def talking(library):
    """Gives the library a chat model, from here on."""
    library.chat = vlt.load("tiny_chat")


@pytest.fixture
def page(browser, address):
    """The loaded page; a request to any other host, or an error on the page, fails the test."""
    page, wrong = browser.new_page(viewport={"width": 1100, "height": 800}), []
    page.set_default_timeout(WAIT)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda asked: _is_own(asked, address) or wrong.append(asked.url))
    page.goto(address)
    yield page
    page.close()
    assert not wrong, wrong


def _is_own(request, address):
    return request.url.startswith((address, "data:", "blob:"))


def until(page, expression):
    """Waits until an expression is true; the page's own policy forbids waiting within the page."""
    ends = time.monotonic() + WAIT / 1000
    while not page.evaluate(expression):
        assert time.monotonic() < ends, f"never: {expression}: {page.inner_text('#status')}"
        page.wait_for_timeout(50)


def search(page, text, within=""):
    page.fill("#query", text)
    page.fill("#within", within)
    page.keyboard.press("Enter")
    until(page, "!document.querySelector('#status').textContent.startsWith('Searching')")
    return page.locator("article")


def test_search_and_play(page, library, tmp_path):
    cards = search(page, "a red circle")
    assert cards.count() == len(library.index.search("a red circle", top=24))
    assert "ranges for" in page.inner_text("#status")
    until(page, "document.querySelector('article img').naturalWidth > 0")
    cards.first.hover()
    page.wait_for_selector("article.plays")
    until(page, "document.querySelector('article video').currentTime > 0.2")
    cards.first.click()
    until(page, "document.querySelector('#film').currentTime > 0.2")
    page.screenshot(path=tmp_path / "clip.png")
    page.keyboard.press("Escape")
    assert not page.locator("#player").is_visible()


@pytest.mark.slow
def test_filter_similar_and_keys(page, library):
    every = search(page, "a red circle").count()
    some = search(page, "a red circle", within="reversed")
    assert 0 < some.count() < every
    assert all("reversed" in name for name in page.locator("article .name").all_inner_texts())
    assert search(page, "a red circle", within="no such path").count() == 0
    assert "Is the filter of paths too narrow?" in page.inner_text("#status")
    search(page, "a red circle")
    first = page.locator("article .name").first.inner_text()
    page.locator("article").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement === document.querySelectorAll('article')[1]")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("s")
    until(page, "document.querySelector('#status').textContent.includes('looks like')")
    assert first not in page.locator("article .name").all_inner_texts()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "query"


@pytest.mark.slow
def test_upload_of_a_clip_and_of_what_is_none(page, library, tmp_path):
    page.set_input_files("#file", library.entries[0].path)
    until(page, "document.querySelectorAll('article').length > 0")
    assert pathlib.Path(library.entries[0].path).name in page.inner_text("#status")
    assert float(page.locator("article .score").first.inner_text()) > 0.8
    Image.new("RGB", (8, 8)).save(tmp_path / "black.png")
    page.set_input_files("#file", tmp_path / "black.png")
    until(page, "document.querySelector('#status').textContent.includes('black.png')")
    (tmp_path / "text.mp4").write_text("no video\n")
    page.set_input_files("#file", tmp_path / "text.mp4")
    page.wait_for_selector("#status.error")
    assert "cannot be opened" in page.inner_text("#status")
    page.evaluate(
        """() => {
          const data = new DataTransfer();
          data.items.add(new File(["x"], "dropped.mp4"));
          dispatchEvent(new DragEvent("drop", { dataTransfer: data }));
        }"""
    )
    until(page, "document.querySelector('#status').className === 'error'")


@pytest.mark.slow
def test_tokens_and_chat_of_a_clip(talking, page, tmp_path):
    search(page, "a red circle").first.click()
    page.click("#show-tokens")
    until(page, "document.querySelector('#tokens').naturalWidth > 100")
    page.fill("#question", "What happens?")
    page.keyboard.press("Enter")
    until(page, "(document.querySelector('#said .answer') || {}).textContent.length > 2")
    assert page.inner_text("#said .asked") == "What happens?"
    page.screenshot(path=tmp_path / "chat.png")


@pytest.mark.slow
def test_errors_are_told(page, library, monkeypatch):
    search(page, "red " * 400)
    assert "tokens" in page.inner_text("#status.error")
    search(page, " ")
    assert "Type what you are looking for" in page.inner_text("#status")
    page.route("**/api/search*", lambda route: route.abort())
    search(page, "a red circle")
    assert page.inner_text("#status.error") == "The server does not answer."
    page.unroute("**/api/search*")
    busy = iter([503, 503])

    def sometimes(route):
        if next(busy, None):
            route.fulfill(status=503, headers={"retry-after": "1"}, body="{}")
        else:
            route.continue_()

    page.route("**/api/search*", sometimes)
    assert search(page, "a red circle").count() > 0


@pytest.mark.slow
def test_a_phone_and_the_dark(browser, address, tmp_path):
    for scheme, width in (("dark", 1100), ("light", 390)):
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        page.goto(address)
        search(page, "a red circle")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        back = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, back[4:-1].split(","))) < 384) == (scheme == "dark")
        page.screenshot(path=tmp_path / f"{scheme}.png")
        page.close()


@pytest.mark.slow
def test_fifty_users_for_a_minute(address):
    """Each user searches, then reads frames and parts of the videos found, again and again."""
    import httpx2

    ends = time.monotonic() + 60

    def user(number: int) -> int:
        answers = 0
        with httpx2.Client(base_url=address, timeout=60) as client:
            while time.monotonic() < ends:
                words = ("red", "blue", "green")[(number + answers) % 3]
                found = client.get("/api/search", params={"query": f"a {words} circle"})
                assert found.status_code == 200, found.text
                for each in found.json()["found"][:4]:
                    tenths = round(5 * (each["start"] + each["end"]))
                    assert client.get(f"/frame/{each['video']}/{tenths}").status_code == 200
                    part = client.get(f"/video/{each['video']}", headers={"range": "bytes=0-99"})
                    assert part.status_code == 206
                answers += 1
        return answers

    with concurrent.futures.ThreadPoolExecutor(50) as users:
        counts = list(users.map(user, range(50)))
    assert min(counts) >= 1
