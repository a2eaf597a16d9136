"""What a run is exported as gives what the run gives."""

import json

import jax
import numpy as np
import pytest
import safetensors
from jax import export as jax_export

import vlt
from configs import common
from vlt.checkpoint import TrainingCheckpoints
from vlt.configuration import save_run
from vlt.export import export, main, trained_model
from vlt.loading import load_model
from vlt.model_folder import ModelFolderError
from vlt.optim import partition


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run whose trained leaves all moved by one."""
    folder = tmp_path_factory.mktemp("run")
    config = common.base()
    config.model.update(checkpoint="tiny_clip", size="tiny_clip", context=16, frames=4)
    config.model.methods = ("btadapter", "caption_reconstruction")
    config.model.update(btadapter={"depth": 2}, caption_reconstruction={})
    config.rules = (
        ("visual/btadapter/.*|text/caption_reconstruction/.*", {"lr": 1.0}),
        (".*", "frozen"),
    )
    save_run(folder, config)
    trained, _ = partition(load_model(config.model, 0).params, config.rules)
    checkpoints = TrainingCheckpoints(folder, 1)
    checkpoints.save(3, {"trained": jax.tree.map(lambda x: x + 1, trained)}, {}, {})
    checkpoints.close()
    return folder


VIDEO = np.random.default_rng(0).integers(0, 255, (3, 4, 32, 32, 3), dtype=np.uint8)
TEXTS = ["a red circle moves left on a black background", "an empty white background"]


@pytest.fixture(scope="module")
def expected(workdir):
    model = trained_model(workdir)
    return model.module.apply({"params": model.params}, VIDEO, method="encode_video")[0]


def test_model_folder_loads_and_agrees(workdir, expected, tmp_path):
    export(workdir, tmp_path / "model", "orbax")
    model = vlt.load(tmp_path / "model")
    np.testing.assert_allclose(model.encode_video(VIDEO), expected, atol=1e-6)
    assert [type(m).__name__ for m in model.module.methods] == ["BTAdapter"]
    assert model.config.frames == 4
    assert "caption_reconstruction" not in model.params["text"]


def test_encoders_of_a_loaded_model(workdir, tmp_path):
    model = vlt.load("tiny_clip")
    text = model.encode_text(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(text, axis=-1), 1, atol=1e-5)
    np.testing.assert_allclose(model.encode_text(TEXTS[0])[0], text[0], atol=1e-6)
    raw = np.asarray(model.encode_text(TEXTS, normalize=False))
    np.testing.assert_allclose(raw / np.linalg.norm(raw, axis=-1, keepdims=True), text, atol=1e-5)
    pixels = (VIDEO / 255 - np.array(model.module.mean)) / np.array(model.module.std)
    np.testing.assert_allclose(
        model.encode_video(pixels.astype(np.float32)), model.encode_video(VIDEO), atol=1e-5
    )
    with pytest.raises(ValueError, match="float64"):
        model.encode_video(pixels)
    with pytest.raises(ValueError, match="16, 16"):
        model.encode_video(VIDEO[:, :, :16, :16])


def test_programs_need_nothing_of_ours(workdir, expected, tmp_path):
    export(workdir, tmp_path / "programs", "stablehlo")
    program = jax_export.deserialize((tmp_path / "programs" / "video.stablehlo").read_bytes())
    np.testing.assert_allclose(program.call(VIDEO), expected, atol=1e-5)
    np.testing.assert_allclose(program.call(VIDEO[:1]), expected[:1], atol=1e-5)


def test_safetensors_hold_every_leaf_and_the_config(workdir, tmp_path):
    target = tmp_path / "model.safetensors"
    assert main(["--workdir", str(workdir), str(target), "--format", "safetensors"]) == 0
    with safetensors.safe_open(target, "np") as file:
        names, metadata = set(file.keys()), file.metadata()
        gate = file.get_tensor("visual/btadapter/final_gate")
    np.testing.assert_array_equal(gate, np.ones_like(gate))
    assert json.loads(metadata["vlt"])["methods"] == {"btadapter": {"depth": 2}}
    model = trained_model(workdir)
    assert len(names) == len(jax.tree.leaves(model.params))


def test_existing_target_needs_overwrite(workdir, tmp_path, capsys):
    export(workdir, tmp_path / "model", "orbax")
    with pytest.raises(ModelFolderError, match="--overwrite"):
        export(workdir, tmp_path / "model", "orbax")
    export(workdir, tmp_path / "model", "orbax", overwrite=True)
    assert main(["--workdir", str(tmp_path), str(tmp_path / "x")]) == 1
    assert "config.json does not exist" in capsys.readouterr().err


def test_run_without_a_checkpoint_is_refused(workdir, tmp_path, capsys):
    from vlt.configuration import load_saved

    save_run(tmp_path, load_saved(workdir))
    assert main(["--workdir", str(tmp_path), str(tmp_path / "x")]) == 1
    assert "no complete checkpoint" in capsys.readouterr().err
