"""Numbers of frames other than a stored ViCLIP has embeddings for."""

from pathlib import Path
from typing import Any

import golden_viclip
import jax
import numpy as np
import pytest
from absl import logging
from ml_collections import ConfigDict

from configs import common
from vlt.inspect import inspect_config
from vlt.model_io.folder import ModelFolderError, read_model_folder, write_model_folder
from vlt.model_io.loading import load_folder, load_model
from vlt.models.sizes import SIZES
from vlt.models.spec import with_visual


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, np.ndarray]:
    return golden_viclip.numbers(shared)


@pytest.fixture(scope="module")
def folder(shared: Path, tmp_path_factory, tokenizer: str) -> Path:
    path = tmp_path_factory.mktemp("viclip") / "model"
    return golden_viclip.converted(shared, path, tokenizer)


@pytest.fixture
def warnings(monkeypatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: lines.append(text % values))
    return lines


def config(folder: Path, frames: int, **changes: Any) -> ConfigDict:
    config = common.base()
    config.model.update(checkpoint=str(folder), frames=frames, context=32)
    config.model.update(changes)
    return config


def embed(module: Any, params: Any, video: np.ndarray) -> np.ndarray:
    def encode(params: Any, video: jax.Array) -> jax.Array:
        return module.apply({"params": params}, video, method="encode_video")[1]["video_features"]

    with jax.default_matmul_precision("highest"):
        return np.asarray(jax.jit(encode)(params, video))


def test_more_frames_interpolate_the_embeddings(golden, folder, warnings):
    loaded = load_model(config(folder, 12).model, 0)
    assert warnings == [f"{folder}: embeddings of 8 frames interpolated to 12"]
    stored = read_model_folder(folder)[1]["visual"].pop("temporal_embedding")
    table = loaded.params["visual"]["temporal_embedding"]
    scaled = (np.arange(12) + 0.5) * 8 / 12 - 0.5  # half-pixel centres, clamped at both ends
    expected = [np.interp(scaled, np.arange(8), channel) for channel in stored.T]
    np.testing.assert_allclose(table, np.stack(expected, axis=1), rtol=0, atol=1e-6)
    assert loaded.config.spec.visual.temporal_frames == loaded.config.frames == 12
    video = np.concatenate([golden["video"], golden["video"][:, :4]], axis=1)
    assert np.isfinite(embed(loaded.module, loaded.params, video)).all()


def test_what_was_loaded_so_is_stored_so(folder, tmp_path, warnings):
    loaded = load_model(config(folder, 12).model, 0)
    write_model_folder(tmp_path / "m", loaded.config, loaded.params, loaded.tokenizer)
    again = load_folder(str(tmp_path / "m"))
    jax.tree.map(np.testing.assert_array_equal, again.params, loaded.params)
    with pytest.raises(ModelFolderError, match="is not of config.model.size='viclip_b16'"):
        load_model(config(tmp_path / "m", 12, size="viclip_b16").model, 0)


def test_a_size_is_that_of_its_frames(folder, monkeypatch, warnings):
    """The name means the size before its table is resized to the frames."""
    stored, params = read_model_folder(folder)
    monkeypatch.setitem(SIZES, "viclip_b16", stored.spec)
    loaded = load_model(config(folder, 12, size="viclip_b16").model, 0)
    assert loaded.module.spec.visual.temporal_frames == 12
    grown = folder.with_name("grown")
    write_model_folder(grown, loaded.config, loaded.params, loaded.tokenizer)
    warnings.clear()
    load_model(config(grown, 12, size="viclip_b16").model, 0)
    assert not warnings
    with pytest.raises(ModelFolderError, match="is not of config.model.size"):
        load_model(config(grown, 8, size="viclip_b16").model, 0)


@pytest.mark.quick(1)
@pytest.mark.parametrize("frames", [1, 4, 8])
def test_fewer_frames_leave_the_embeddings_alone(golden, folder, warnings, frames):
    loaded = load_model(config(folder, frames).model, 0)
    assert not warnings
    stored = read_model_folder(folder)[1]
    jax.tree.map(np.testing.assert_array_equal, loaded.params, stored)
    if frames == 4:  # as if the table had only four rows
        module = loaded.module.clone(spec=with_visual(loaded.module.spec, temporal_frames=4))
        table = stored["visual"]["temporal_embedding"]
        visual = stored["visual"] | {"temporal_embedding": table[:4]}
        video = golden["video"][:, :4]
        expected = embed(module, stored | {"visual": visual}, video)
        np.testing.assert_array_equal(embed(loaded.module, loaded.params, video), expected)


def test_a_clip_has_no_table_to_grow(warnings):
    clip = common.base().model
    clip.update(checkpoint="tiny_clip", frames=12, context=16)
    assert load_model(clip, 0).module.spec.visual.temporal_frames == 0
    assert not warnings


@pytest.mark.quick(1)
@pytest.mark.parametrize("methods", [(), ("lora",)])
def test_inspection_counts_the_longer_table(folder, methods):
    eight, twelve = (inspect_config(config(folder, n, methods=methods)) for n in (8, 12))
    assert twelve["total_params"] - eight["total_params"] == 4 * 64
    assert eight["tokens_per_layer"] == [[1, 129]] * 4
    assert twelve["tokens_per_layer"] == [[1, 193]] * 4
