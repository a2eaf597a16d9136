"""`vlt.load` gives the object for the kind of model; captioners are in test_caption.py."""

import jax
import numpy as np
import pytest

import vlt
from data_pipelines import moving_shapes
from vlt.model_folder import ModelConfig, model_shapes, write_model_folder
from vlt.models.build import make_model
from vlt.models.spec import BertSpec, BlipSpec, VisionSpec

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


def test_a_kind_without_an_object_is_refused(tmp_path):
    path, _, _ = folder(tmp_path, "answerer")
    with pytest.raises(ValueError, match="a model of kind answerer; one of dual_encoder, retr"):
        vlt.load(path)
