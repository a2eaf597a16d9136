"""A long video whose embedding was cut short is continued, unless it has changed since."""

import dataclasses
import os

import numpy as np
import pytest
from video_files import draw, write_lossless

pytest.importorskip("lancedb")

from vlt.data.video.clips import ClipRequest
from vlt.indexing import embedding
from vlt.indexing.rows import UNFINISHED, About
from vlt.indexing.store import Store
from vlt.indexing.windows import WindowRule

RULE = WindowRule("time", 0.4, 0.2)
LOOK = ClipRequest("", "linspace", 2, {"resize": 16, "crop": 16})
WINDOWS = 21  # of a film


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(embedding, "AT_ONCE", 4)
    monkeypatch.setattr(embedding, "WRITE_EVERY", 0.0)


@pytest.fixture
def film(tmp_path):
    return str(write_lossless(tmp_path, "ffv1.mkv", draw(110)))


def store_of(folder):
    about = About("m", "f", 3, "linspace", 2, {}, "time", 0.4, 0.2, "float32", folder=os.getcwd())
    return Store.open_or_create(str(folder), about)


class Encoder:
    """Counts what it embeds, and ends the run after `most` batches, as a kill does."""

    def __init__(self, most=100):
        self.left, self.windows = most, 0

    def __call__(self, frames):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self.windows += len(frames)
        means = frames.astype(np.float32).mean((1, 2, 3)) + 1
        return means / np.linalg.norm(means, axis=-1, keepdims=True)


def embed(store, path, encoder):
    return list(embedding.update(store, [path], encoder, LOOK, RULE, batch=4))


def rows(store):
    windows = store.read()
    order = np.argsort(windows.spans[:, 0])
    return windows.spans[order], windows.vectors[order]


def cut_short(store, path, batches):
    with pytest.raises(KeyboardInterrupt):
        embed(store, path, Encoder(batches))
    assert store.entries()[path].error == UNFINISHED
    assert store.count() == 4 * batches


def test_what_was_embedded_is_not_embedded_again(film, tmp_path):
    whole, parts = store_of(tmp_path / "whole"), store_of(tmp_path / "parts")
    (entry,) = embed(whole, film, Encoder())
    assert entry.windows == whole.count() == WINDOWS
    cut_short(parts, film, 3)
    rest = Encoder()
    assert embed(parts, film, rest) == [entry]
    assert WINDOWS - 12 <= rest.windows < WINDOWS - 12 + 4, "with what fills the last batch"
    assert parts.entries() == whole.entries()
    for found, expected in zip(rows(parts), rows(whole), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert embed(parts, film, Encoder(0)) == []


def test_one_that_has_changed_is_embedded_from_its_start(film, tmp_path):
    store = store_of(tmp_path / "index")
    cut_short(store, film, 3)
    write_lossless(tmp_path, "ffv1.mkv", draw(110, seed=1))
    every = Encoder()
    embed(store, film, every)
    assert every.windows >= WINDOWS and store.count() == WINDOWS
    other = store_of(tmp_path / "other")
    embed(other, film, Encoder())
    np.testing.assert_array_equal(rows(store)[1], rows(other)[1])


def test_one_that_only_lacks_its_end_is_finished_unread(film, tmp_path):
    store = store_of(tmp_path / "index")
    (entry,) = embed(store, film, Encoder())
    store.update(dataclasses.replace(entry, error=UNFINISHED))
    assert embed(store, film, Encoder(0)) == []
    assert store.entries() == {film: entry}


def test_one_that_cannot_be_read_to_its_end_leaves_no_window(film, tmp_path):
    store = store_of(tmp_path / "index")
    cut_short(store, film, 3)
    with open(film, "r+b") as file:
        file.truncate(os.path.getsize(film) * 2 // 3)
    (entry,) = embed(store, film, Encoder())
    assert "truncated" in entry.error and store.count() == 0
    assert store.entries() == {film: entry}
