"""Data streams over stub videos."""

import json

import pytest
from ml_collections import ConfigDict
from stub_pool import ROWS, StubPool

from vlt.data import moving_shapes
from vlt.data.pipeline import VideoData
from vlt.data.text.tokenize import Tokenizer


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    moving_shapes.write_tokenizer(folder)
    return Tokenizer.load(folder, context=16)


@pytest.fixture
def make(tmp_path, words):
    """make(pool, rows=..., **config) -> VideoData over the stub videos 0.mp4, 1.mp4, ..."""

    def default_row(i):
        return {"caption": ["red", "green", "blue"], "pair": i // 2, "id": f"v{i}"}

    def make(
        pool=None, rows=None, workdir=tmp_path / "work", name="train", share=None, process=0,
        **config
    ):  # fmt: skip
        rows = [default_row(i) for i in range(ROWS)] if rows is None else rows
        for i, row in enumerate(rows):
            (tmp_path / f"{i}.mp4").touch()
            row.setdefault("video", f"{i}.mp4")
        manifest = tmp_path / "manifest.jsonl"
        manifest.write_text("".join(json.dumps(r) + "\n" for r in rows))
        settings = {
            "manifest": str(manifest), "batch_size": 8, "group": "", "on_error": "raise",
            "max_error_rate": 0.5, "allow_truncated": False, "backend": "pyav", "cache": False,
            "sampler": {"name": "linspace", "frames": 2}, "transform": {"jitter": {"hue": 0.1}},
            "captions": ("caption",), "clean": "", "max_words": 0, "prefix": "",
        }  # fmt: skip
        return VideoData(
            ConfigDict(settings | config), words, pool or StubPool(), name=name, workdir=workdir,
            seed=3, rows=share, process_index=process,
        )  # fmt: skip

    return make
