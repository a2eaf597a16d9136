"""An index of moving shapes: made, updated and searched; and faulty indices."""

import http.server
import json
import os
import pathlib
import shutil
import threading

import numpy as np
import pytest

lancedb = pytest.importorskip("lancedb")

import vlt  # noqa: E402
from vlt.data import moving_shapes  # noqa: E402
from vlt.data.video.errors import VideoError  # noqa: E402
from vlt.indexing import embedding  # noqa: E402
from vlt.indexing.rows import Windows  # noqa: E402
from vlt.indexing.search import FEWEST, Usual, best_ranges  # noqa: E402
from vlt.indexing.store import Store, StoreError, writing  # noqa: E402
from vlt.indices import embed  # noqa: E402
from vlt.serving.library import Library  # noqa: E402

PAIRS = 3


@pytest.fixture(scope="module")
def model():
    return vlt.load("tiny_branch")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """A manifest of twins: the same clip forwards and backwards."""
    return moving_shapes.generate(tmp_path_factory.mktemp("shapes") / "twins", PAIRS)


@pytest.fixture(scope="module")
def made(shapes, model, tmp_path_factory):
    """An index of all of them, which no test changes."""
    uri = tmp_path_factory.mktemp("index") / "index"
    vlt.index(uri, [str(shapes.parent / "videos")], model, window="whole")
    return uri


@pytest.fixture
def copied(made, shapes, tmp_path):
    """A copy of the videos and the index that a test may change."""
    shutil.copytree(shapes.parent / "videos", tmp_path / "videos")
    return tmp_path / "videos", tmp_path / "index"


def rows(shapes):
    return [json.loads(line) for line in shapes.read_text().splitlines()]


def test_a_text_finds_its_clip_and_that_of_its_twin_the_other(made, shapes, model):
    index = vlt.index(made, model=model)
    assert len(index) == 2 * PAIRS
    for row in rows(shapes):
        name = str(shapes.parent / row["video"])
        first, second, *_ = index.search(row["caption"])
        assert first.path == name and first.score > second.score
        assert pathlib.Path(second.path).stem[:6] == pathlib.Path(name).stem[:6]


def test_vectors_are_those_of_the_model(made, shapes, model):
    index = vlt.index(made, model=model)
    paths = [str(shapes.parent / row["video"]) for row in rows(shapes)]
    expected = dict(zip(paths, np.asarray(model.encode_video(paths)), strict=True))
    windows = index.store.read()
    for path, vector in zip(windows.paths, windows.vectors, strict=True):
        np.testing.assert_allclose(vector, expected[path], atol=2e-4)  # stored as float16
    found = index.search(model.read_videos(paths[2]), top=1)[0]
    assert found.path == paths[2] and abs(found.score - 1) < 1e-3


def test_only_what_changed_is_embedded_again(copied, shapes, model):
    videos, uri = copied

    def names():
        return sorted(str(path) for path in videos.iterdir())

    def read():
        return [entry.path for entry in embed(str(uri), names(), model, "whole")]

    first, *others = names()
    assert read() == [first, *others]
    os.utime(others[0], (1, 1))  # another time, the same bytes
    assert read() == []
    shutil.copy(others[1], first)
    pathlib.Path(others[2]).unlink()
    assert read() == [first]
    store = Store(str(uri))
    assert sorted(store.entries()) == names() and store.entries()[others[0]].mtime_ns == 10**9
    windows = store.read()
    assert sorted(windows.paths) == names()
    by_path = dict(zip(windows.paths, windows.vectors, strict=True))
    np.testing.assert_array_equal(by_path[first], by_path[others[1]])


def test_a_run_that_was_killed_goes_on(copied, model, monkeypatch):
    videos, uri = copied
    names = sorted(str(path) for path in videos.iterdir())
    monkeypatch.setattr(embedding, "WRITE_EVERY", 0.0)
    add = Store.add

    def killed(store, entries, windows):
        add(store, [], windows)  # the windows are written, then the run ends
        raise KeyboardInterrupt

    run = embed(str(uri), names, model, "whole")
    assert next(run).path == names[0]
    monkeypatch.setattr(Store, "add", killed)
    with pytest.raises(KeyboardInterrupt):
        next(run)
    assert sorted(set(Store(str(uri)).read().paths)) == names[:2]
    monkeypatch.setattr(Store, "add", add)
    assert [entry.path for entry in embed(str(uri), names, model, "whole")] == names[1:]
    assert sorted(Store(str(uri)).read().paths) == names


def test_broken_files_are_listed_and_tried_again(copied, model):
    videos, uri = copied
    broken = videos / "a.mp4"
    broken.write_text("no video\n")
    for _ in range(2):
        found = list(embed(str(uri), [str(broken)], model, "whole"))
        assert [entry.windows for entry in found] == [0] and "cannot be opened" in found[0].error
    assert Store(str(uri)).entries()[str(broken)] == found[0]
    assert len(Store(str(uri)).read()) == 0
    with pytest.raises(StoreError, match="has no video"):
        vlt.index(uri, model=model).search("a red circle")


def test_a_folder_that_vanished_and_a_full_disk_lose_nothing(copied, model, monkeypatch):
    videos, uri = copied
    vlt.index(uri, [str(videos)], model, window="whole")
    moved = videos.rename(videos.with_name("elsewhere"))
    with pytest.raises(StoreError, match="videos is gone, with 6 videos of this index, which stay"):
        vlt.index(uri, [str(videos)], model, window="whole")
    moved.rename(videos)
    kept = Store(str(uri)).entries()
    assert len(kept) == 6
    shutil.copy(next(videos.iterdir()), videos / "more.mov")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(lancedb.table.LanceTable, "add", full)
        with pytest.raises(StoreError, match="No space left on device; what was written before is"):
            vlt.index(uri, [str(videos)], model, window="whole")
    assert Store(str(uri)).entries() == kept and len(Store(str(uri)).read()) == 6
    vlt.index(uri, [str(videos)], model, window="whole")
    assert len(Store(str(uri)).entries()) == 7


def test_relative_paths_of_another_folder_lose_nothing(copied, model, monkeypatch):
    videos, uri = copied
    monkeypatch.chdir(videos.parent)
    names = [f"videos/{path.name}" for path in videos.iterdir()]
    assert set(vlt.index(uri, "videos", model, window="whole").store.entries()) == set(names)
    (videos / "below").mkdir()
    monkeypatch.chdir(videos / "below")
    with pytest.raises(StoreError, match=f"was made in {videos.parent}, where relative paths"):
        list(embed(str(uri), [str(videos / "below")], model, "whole"))
    assert set(Store(str(uri)).entries()) == set(names)


def test_relative_paths_that_lead_nowhere_lose_nothing(copied, model, monkeypatch):
    videos, uri = copied
    (folder := uri.parent / "made").mkdir()
    videos.rename(folder / "videos")
    monkeypatch.chdir(folder)
    vlt.index(uri, "videos", model, window="whole")
    (elsewhere := uri.parent / "elsewhere").mkdir()
    monkeypatch.chdir(elsewhere)
    folder.rename(uri.parent / "moved")
    with pytest.raises(StoreError, match=f"was made in {folder}, where relative paths"):
        list(embed(str(uri), [str(elsewhere)], model, "whole"))
    assert len(Store(str(uri)).entries()) == 6


def test_an_absolute_index_takes_relative_paths_only_where_it_was_made(copied, model, monkeypatch):
    videos, uri = copied
    monkeypatch.chdir(videos.parent)
    vlt.index(uri, str(videos), model, window="whole")
    monkeypatch.chdir(videos)
    with pytest.raises(StoreError, match="run the command there"):
        vlt.index(uri, ".", model, window="whole")
    assert len(Store(str(uri)).entries()) == 6


def test_relative_paths_are_found_from_other_folders(copied, model, monkeypatch):
    videos, uri = copied
    monkeypatch.chdir(videos.parent)
    opened = vlt.index(uri, "videos", model, window="whole")
    (videos.parent / "elsewhere").mkdir()
    monkeypatch.chdir(videos.parent / "elsewhere")
    path = opened.search("a red circle")[0].path
    assert path.startswith("videos/")
    assert os.path.samefile(opened.store.located(path), videos / os.path.basename(path))
    with Library(opened) as library:
        assert os.path.samefile(library.file(0), videos / os.path.basename(library.file(0)))


def test_a_name_that_is_not_utf8_fails_alone(copied, model):
    videos, uri = copied
    good, *_ = sorted(map(str, videos.iterdir()))
    bad = os.fsdecode(os.fsencode(good) + b"\xff.mov")
    shutil.copy(good, bad)
    for _ in range(2):
        found = {e.path: e.error for e in embed(str(uri), [bad, good, "/a\0b"], model, "whole")}
        assert found.pop(bad).startswith("its name is not UTF-8 text: character ")
        assert found.pop("/a\0b") == "its name is not text: character 3 is a NUL"
    assert list(Store(str(uri)).entries()) == [good]


def test_windows_that_touch_are_one_range():
    spans = np.array([(0, 4), (4, 8), (12, 16), (0, 4), (8, 12), (9, 12)], float)
    windows = Windows(np.array(["a", "a", "a", "b", "a", "b"], object), spans, np.zeros((6, 2)))
    scores = np.array([0.1, 0.8, 0.75, 0.7, 0.9, 0.3], np.float32)
    found = best_ranges(windows, scores, 3, usual=Usual.of(np.full(10, 0.2)))
    assert [(x.path, x.start, x.end) for x in found] == [("a", 4, 16), ("b", 0, 4), ("b", 9, 12)]
    assert found[0].score == pytest.approx(0.9) and found[0].chance is None
    scores[2] = 0.2  # too low to extend past 12 s; ranges taken are not reused
    found = best_ranges(windows, scores, 6, usual=Usual.of(np.full(10, 0.2)))
    assert [(x.start, x.end) for x in found if x.path == "a"] == [(4, 12), (12, 16), (0, 4)]


def test_the_chance_of_a_score_is_that_of_the_highest_of_so_many():
    """For normal scores, the highest lies above its own median half of the time."""
    rng = np.random.default_rng(0)
    chances = [Usual.of(x).chance(x.max()) for x in rng.normal(0.2, 0.05, (400, 1000))]
    assert 0.4 < np.median(chances) < 0.6 and 0.03 < np.mean(np.array(chances) < 0.05) < 0.08
    assert Usual.of(rng.normal(0.2, 0.05, 1000)).chance(0.9) < 1e-6
    assert Usual.of(np.zeros(1000)).chance(0.9) is None  # all are alike
    few, enough = (Usual(count, 0.2, 0.05).chance(0.9) for count in (FEWEST - 1, FEWEST))
    assert few is None and enough is not None


def test_where_chooses_windows(made, shapes, model):
    index = vlt.index(made, model=model)
    caption = rows(shapes)[0]["caption"]
    found = index.search(caption, where="path LIKE '%reversed%'")
    assert len(found) == PAIRS and all("reversed" in each.path for each in found)
    assert index.search(caption, where="path LIKE '%)%' OR (path LIKE '%reversed%')") == found


@pytest.mark.parametrize(
    "condition",
    [
        "nothing = 1",
        "path LIKE",
        "1; DROP TABLE windows",
        "start >= 0 path LIKE '%reversed%'",
        "start >= 0; path LIKE '%reversed%'",
        "start >= 0) AND path LIKE '%reversed%'",
        "(start >= 0",
        "start >= 0 -- all",
    ],
)
def test_a_condition_is_read_to_its_end(made, shapes, model, condition):
    with pytest.raises(StoreError, match="--where="):
        vlt.index(made, model=model).search("a red circle", where=condition)


def test_a_query_without_words_is_refused(made, model):
    with pytest.raises(ValueError, match="without words"):
        vlt.index(made, model=model).search(" ")


def test_what_is_wrong_with_an_index(made, shapes, model, tmp_path):
    videos = [str(shapes.parent / "videos")]
    with pytest.raises(StoreError, match=r"no index there; `vlt embed VIDEO... --out="):
        vlt.index(tmp_path / "none", model=model)
    assert not (tmp_path / "none").exists()
    with pytest.raises(StoreError, match=r"fingerprint .* is another model"):
        vlt.index(made, videos, vlt.load("tiny_clip"), window="whole")
    with pytest.raises(StoreError, match="this model's fingerprint is"):
        vlt.index(made, model=vlt.load("tiny_clip"))
    with pytest.raises(StoreError, match="made with window='whole', not 'time'"):
        vlt.index(made, videos, model, window="4s")
    with writing(str(made)), pytest.raises(StoreError, match="another run writes into this index"):
        vlt.index(made, videos, model, window="whole")
    with pytest.raises(ValueError, match=r"a query of [\d,]+ tokens, .*; the model reads 16"):
        vlt.index(made, model=model).search("red circle " * 1000)


def test_a_damaged_index_is_not_taken_for_none(made, tmp_path):
    shutil.copytree(made, tmp_path / "copy")
    for manifest in tmp_path.glob("copy/windows.lance/_versions/*.manifest"):
        manifest.write_bytes(b"x")
    with pytest.raises(StoreError, match=r"copy cannot be read: .*not have sufficient data"):
        Store(str(tmp_path / "copy"))


NO_BUCKET = b"<Error><Code>NoSuchBucket</Code><Message>The bucket does not exist</Message></Error>"


class NoBucket(http.server.BaseHTTPRequestHandler):
    """A store that speaks S3 and holds nothing."""

    def do_GET(self):
        self.send_response(404)
        self.send_header("Content-Length", str(len(NO_BUCKET)))
        self.end_headers()
        self.wfile.write(NO_BUCKET)

    def log_message(self, *_):
        pass


def test_a_store_that_cannot_be_read_is_told_in_a_sentence(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), NoBucket)
    at = f"http://127.0.0.1:{server.server_port}"
    settings = {"ENDPOINT": at, "ALLOW_HTTP": "true", "REGION": "us-east-1"}
    settings |= {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b"}
    for name, value in settings.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.raises(StoreError, match="^s3://a/b cannot be read: The bucket does not exist$"):
        Store("s3://a/b")
    server.shutdown()
    server.server_close()
    with pytest.raises(StoreError, match="^s3://a/c cannot be read: Connection refused$"):
        Store("s3://a/c")


def test_an_index_of_a_newer_format_is_refused(made, tmp_path, monkeypatch):
    monkeypatch.setattr("vlt.indexing.store.FORMAT", 0)
    with pytest.raises(StoreError, match="an index of format 1; this version reads 0"):
        Store(str(made))


def test_a_name_with_quotes_is_a_name(copied, model):
    videos, uri = copied
    odd = videos / "it's'; --.mov"
    next(videos.iterdir()).rename(odd)
    assert [e.error for e in embed(str(uri), [str(odd)], model, "whole")] == [""]
    Store(str(uri)).drop([str(odd)])
    assert not Store(str(uri)).entries() and not len(Store(str(uri)).read())


def test_an_unreadable_query_is_told(tmp_path, model):
    from vlt.inference.pictures import still

    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(VideoError, match="cannot be read as a picture"):
        still(model.config, str(tmp_path / "a.png"), "a.png")
