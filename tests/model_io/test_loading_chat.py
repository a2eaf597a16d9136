"""A chat model's folder: words made trainable, and other ways to read a video."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest

from configs import common
from vlt.data.moving_shapes import write_tokenizer
from vlt.export import merged_model
from vlt.model_io.build import example_inputs, forward, init_params, make_model
from vlt.model_io.folder import ModelConfig, ModelFolderError, write_model_folder
from vlt.model_io.loading import load_folder, load_model
from vlt.models.spec import ChatSpec, LlamaSpec, VisionSpec
from vlt.models.video_model import CLIP_MEAN, CLIP_STD
from vlt.pytrees.paths import by_path

SPEC = ChatSpec(VisionSpec(8, 4, 8, 4, 2, 16), LlamaSpec(16, 20, 8, 1, 2, 16))
BRANCH = {"btadapter": {"depth": 2, "alignment": "none"}}


def initialised(methods):
    model = make_model(SPEC, methods)
    return jax.device_get(jax.jit(partial(init_params, model))(jax.random.key(0)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder with a branch, so that a config adds to existing methods."""
    path = tmp_path_factory.mktemp("chat")
    write_tokenizer(path / "tokenizer")
    pixels = {"image_size": 8, "mean": CLIP_MEAN, "std": CLIP_STD}
    config = ModelConfig("llava", SPEC, BRANCH, pixels)
    params = initialised(BRANCH)
    write_model_folder(path / "model", config, params, path / "tokenizer")
    return str(path / "model")


def config_of(folder, **changes):
    config = common.base().model
    config.update(checkpoint=folder, frames=3, context=8)
    config.update(changes)
    return config


@pytest.mark.slow
def test_words_that_a_config_trains_are_those_of_the_folder(folder):
    table = load_folder(folder).params["text"]["token_embedding"]["embedding"]
    loaded = load_model(config_of(folder, methods=("token_rows",)), 0)
    text = loaded.params["text"]
    np.testing.assert_array_equal(text["token_embedding"]["embedding"], table[:-2])
    np.testing.assert_array_equal(text["token_rows"], table[-2:])
    merged = merged_model(loaded)
    assert [*merged.config.methods] == ["btadapter"]
    np.testing.assert_array_equal(merged.params["text"]["token_embedding"]["embedding"], table)


def tokens_of(loaded):
    video, *_ = example_inputs(loaded.module.spec, 3, 8)
    tokens, _ = jax.eval_shape(forward(loaded.module, "encode_video"), loaded.params, video)
    return tokens.shape[1]


def test_a_video_is_read_as_the_config_says(folder):
    loaded = load_model(config_of(folder), 0)
    assert tokens_of(loaded) == 4 + 1
    every = load_model(config_of(folder, video={"tokens": "frames", "cls": "first"}), 0)
    assert every.config.spec == dataclasses.replace(SPEC, tokens="frames", cls="first")
    with pytest.raises(ValueError, match="model.video has no field 'token' .did you mean 'tokens'"):
        load_model(config_of(folder, video={"token": "mean"}), 0)
    with pytest.raises(ValueError, match="spec.cls='last': means over patches take"):
        load_model(config_of(folder, video={"tokens": "st_pool"}), 0)
    with pytest.raises(ValueError, match="model.video=.* is for chat models and UMT, "):
        load_model(config_of("tiny_clip", video={"tokens": "mean"}), 0)
    with pytest.raises(ModelFolderError, match="size='tiny_chat': .*text.context is 16, not 256"):
        load_model(config_of(folder, size="tiny_chat"), 0)


def test_all_patches_together_begin_with_embeddings_of_no_frame(tmp_path, folder):
    write_tokenizer(tmp_path / "tokenizer")
    pixels = {"image_size": 8, "mean": CLIP_MEAN, "std": CLIP_STD}
    plain = initialised({})
    config = ModelConfig("llava", SPEC, {}, pixels)
    write_model_folder(tmp_path / "model", config, plain, tmp_path / "tokenizer")
    video = {"tokens": "frames", "cls": "none", "joint": True}
    loaded = load_model(config_of(str(tmp_path / "model"), video=video), 0)
    leaves, before = by_path(loaded.params), by_path(plain)
    assert leaves.keys() - before.keys() == {"visual/temporal_embedding"}
    assert leaves["visual/temporal_embedding"].shape == (3, 8)
    assert tokens_of(loaded) == 3 * 4
