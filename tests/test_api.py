"""`vlt.load` gives the object for the kind of model; captioners are in test_caption.py."""

import jax
import numpy as np
import pytest

import vlt
from vlt.data import moving_shapes
from vlt.model_io.build import make_model
from vlt.model_io.folder import ModelConfig, ModelFolderError, model_shapes, write_model_folder
from vlt.models.spec import BertSpec, BlipSpec, DualEncoderSpec, TextSpec, VisionSpec

VISION = VisionSpec(16, 8, 16, 1, 2, 32, "gelu", pre_norm=False, patch_bias=True)
TEXT = BertSpec(12, 43, 16, 1, 2, 32, 16, decode_id=41, encode_id=41, end_id=42)
PIXELS = {"image_size": 16, "mean": [0.5] * 3, "std": [0.5] * 3}


def folder(path, kind):
    """A small BLIP with random weights."""
    spec = BlipSpec(kind, VISION, TEXT, embed_dim=8 if kind == "retriever" else 0)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), model_shapes(spec, {})
    )
    moving_shapes.write_tokenizer(path / "tokenizer")
    write_model_folder(
        path / kind, ModelConfig("blip", spec, {}, PIXELS), params, path / "tokenizer"
    )
    return path / kind, spec, params


@pytest.mark.smoke
def test_a_retriever_encodes_videos_and_texts(tmp_path):
    path, spec, params = folder(tmp_path, "retriever")
    model = vlt.load(path)
    video = np.random.default_rng(1).integers(0, 255, (2, 3, 16, 16, 3), np.uint8)
    texts = ["a red circle", "a blue square moves up"]
    vectors = model.encode_video(video), model.encode_text(texts)
    for found in vectors:
        np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, atol=1e-6)
    assert (
        np.abs(np.linalg.norm(model.encode_video(video, normalize=False), axis=-1) - 1).min() > 0.01
    )

    module = make_model(spec, {}, 3, mean=(0.5,) * 3, std=(0.5,) * 3)
    ids = np.zeros((2, 12), np.int32)
    for row, text in zip(ids, texts, strict=True):
        words = [moving_shapes.VOCABULARY.index(word) for word in text.split()]
        row[: len(words) + 2] = [41, *words, 42]
    out = jax.jit(lambda p, v, i: module.apply({"params": p}, v, i))(params, video, ids)
    np.testing.assert_allclose(vectors[0], out["video"], atol=1e-6)
    np.testing.assert_allclose(vectors[1], out["text"], atol=1e-6)


def test_any_number_of_texts_needs_few_programs_and_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("vlt.loaded.TEXTS_AT_ONCE", 4)
    model = vlt.load(folder(tmp_path, "retriever")[0])
    words = moving_shapes.VOCABULARY
    texts = [f"{words[i]} {words[-1 - i]}" for i in range(2, 13)]
    every = model.encode_text(texts)
    assert every.shape == (11, 8)
    for count in range(1, 12):
        np.testing.assert_allclose(model.encode_text(texts[:count]), every[:count], atol=1e-6)
    assert model._program("encode_text")._cache_size() == 3, "of 1, 2 and 4"
    video = np.random.default_rng(1).integers(0, 255, (1, 3, 16, 16, 3), np.uint8)
    expected = model.encode_video(video) @ every.T
    np.testing.assert_allclose(model.scores(video, texts), expected, atol=1e-6)


def test_many_videos_are_encoded_some_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("vlt.loaded.VIDEOS_AT_ONCE", 2)
    model = vlt.load(folder(tmp_path, "retriever")[0])
    videos = np.random.default_rng(2).integers(0, 255, (5, 3, 16, 16, 3), np.uint8)
    found = model.encode_video(videos)
    for video, vector in zip(videos, found, strict=True):
        np.testing.assert_allclose(model.encode_video(video[None])[0], vector, atol=1e-6)
    assert model._program("encode_video")._cache_size() == 2, "of 2 and 1"


def test_a_kind_without_an_object_is_refused(tmp_path):
    path, _, _ = folder(tmp_path, "answerer")
    with pytest.raises(
        ValueError, match="the model's kind is answerer; it must be one of dual_encoder, retr"
    ):
        vlt.load(path)


def test_what_cannot_be_a_video_or_a_text_is_refused_and_a_doubt_is_told_once(tmp_path):
    model = vlt.load(folder(tmp_path, "retriever")[0])
    for wrong in (None, [], [["a.mp4"]], np.zeros((3, 16, 16, 3), np.uint8)):
        with pytest.raises(ValueError, match="frames"):
            model.encode_video(wrong)
    for wrong in (None, [], [3.5], [[43]], ["\udc00"]):
        with pytest.raises(ValueError, match="text|token"):
            model.encode_text(wrong)
    video = np.random.default_rng(1).uniform(0, 1, (1, 3, 16, 16, 3)).astype(np.float32)
    with pytest.warns(UserWarning, match="float32 from 0 to 1, as if not yet normalised") as told:
        vectors = [model.encode_video(video), model.encode_video([video[0]])]
    assert len(told) == 1 and told[0].filename == __file__
    np.testing.assert_array_equal(*vectors)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": None}, "prompt is None"),
        ({"prompt": "\ud83d"}, "prompt has half of a character"),
        ({"seed": 0.5}, "seed must be a whole number of 64 bits, got 0.5"),
        ({"beams": 2.5}, "generate.beams must be a whole number, got 2.5"),
        ({"beams": True}, "generate.beams must be a whole number, got True"),
        ({"beams": 22}, "beams=22; 43 tokens are enough for 21"),
        ({"beam": 2}, "generate has no option 'beam' .did you mean 'beams'"),
        ({"max_length": 0}, "max_length must be >= 1, got 0"),
        ({"max_length": 13}, "max_length=13; the model has 12 positions"),
        ({"min_length": -1}, "min_length must be >= 0, got -1"),
        ({"top_p": float("nan")}, "generate.top_p must be a finite number, got nan"),
        ({"method": 3}, "generate.method must be a text, got 3"),
    ],
)
def test_a_search_that_cannot_be_is_refused(captioner, options, message):
    with pytest.raises(ValueError, match=message):
        captioner.generate(np.zeros((1, 2, 16, 16, 3), np.uint8), **options)


@pytest.fixture(scope="module")
def captioner(tmp_path_factory):
    return vlt.load(folder(tmp_path_factory.mktemp("captioner"), "captioner")[0])


@pytest.mark.parametrize(
    ("methods", "frames", "other", "message"),
    [
        (
            {"tempme": {"layers": [1], "join": [2], "r": 0}},
            4,
            8,
            "8 frames, but visual/blocks_1/clip_position is .* trained on 4 frames",
        ),
        (
            {"tempme": {"layers": [1], "join": [2], "r": 0}},
            4,
            3,
            r"join=\(2,\) does not divide 3 frames.* trained on 4 frames",
        ),
        (
            {"btadapter": {"depth": 1, "max_frames": 4}},
            2,
            5,
            "5 frames, but btadapter's table .* trained on 2 frames",
        ),
        (
            {"testa": {"layers": [0], "frame_r": 2, "r": 0}},
            4,
            2,
            "testa.frame_r=2: .* trained on 4 frames",
        ),
    ],
)
def test_frames_that_the_methods_are_not_for(tmp_path, methods, frames, other, message):
    spec = DualEncoderSpec(
        VisionSpec(16, 8, 16, 2, 2, 32), TextSpec(12, 43, 16, 1, 2, 32), embed_dim=8
    )
    params = jax.tree.map(
        lambda x: np.zeros(x.shape, np.float32), model_shapes(spec, methods, frames)
    )
    moving_shapes.write_tokenizer(tmp_path / "tokenizer")
    config = ModelConfig("clip", spec, methods, PIXELS, frames)
    write_model_folder(tmp_path / "model", config, params, tmp_path / "tokenizer")
    model = vlt.load(tmp_path / "model")
    with pytest.raises(ValueError, match=message):
        model.encode_video(np.zeros((1, other, 16, 16, 3), np.uint8))


@pytest.mark.parametrize("path", [None, 3, ["tiny_clip"]])
def test_a_path_is_a_text_or_a_path(path):
    with pytest.raises(ValueError, match="must be a model folder, or a name such as 'tiny_clip'"):
        vlt.load(path)


def test_a_folder_without_its_parts_is_named(tmp_path):
    path, _, _ = folder(tmp_path, "retriever")
    with pytest.raises(ModelFolderError, match="config.json: a file, not a model folder"):
        vlt.load(path / "config.json")
    (path / "tokenizer" / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(ModelFolderError, match="tokenizer"):
        vlt.load(path)


def test_weights_that_are_no_numbers_are_named(tmp_path):
    path, spec, params = folder(tmp_path, "retriever")
    params["itm_head"]["bias"] = np.array([0, np.nan], np.float32)
    config = ModelConfig("blip", spec, {}, PIXELS)
    write_model_folder(tmp_path / "nan", config, params, path / "tokenizer")
    with pytest.raises(ModelFolderError, match=r"1 of 2 weights in itm_head/bias .* at \[1\]"):
        vlt.load(tmp_path / "nan")


def test_the_package_shows_its_door():
    assert "load" in dir(vlt)
