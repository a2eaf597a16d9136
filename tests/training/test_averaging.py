"""Exports of several checkpoints' mean, and of mixtures with another model."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import traverse_util

import vlt
from configs import common
from vlt.configuration import save_run
from vlt.data.manifests.resources import resolve
from vlt.export import export, main, trained_model
from vlt.model_io.build import abstract_params, make_model
from vlt.model_io.folder import ModelConfig, ModelFolderError, write_model_folder
from vlt.model_io.loading import LoadedModel, load_folder, load_model
from vlt.models.spec import DualEncoderSpec, TextSpec, VisionSpec
from vlt.training.averaging import blended
from vlt.training.checkpoints import TrainingCheckpoints
from vlt.training.rules import partition

TRAINED = r"visual/blocks_3/.*|text/blocks_1/mlp/.*|logit_scale"
STEPS = (10, 20, 30, 40)


def leaves(tree: dict) -> dict:
    return traverse_util.flatten_dict(tree, sep="/")


def moved(tree: dict, seed: int) -> dict:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x + rng.normal(0, 0.1, x.shape).astype(np.float32), tree)


def run(folder, trained, **methods):
    """Writes a run on tiny CLIP with four checkpoints. Returns their trained leaves by step."""
    config = common.base()
    config.model.update(checkpoint="tiny_clip", context=16, frames=4, methods=tuple(methods))
    config.model.update(methods)
    config.rules = ((trained, {"lr": 1.0}), (".*", "frozen"))
    save_run(folder, config)
    start, _ = partition(load_model(config.model, 0).params, config.rules)
    checkpoints = TrainingCheckpoints(folder, len(STEPS))
    saved = {step: moved(start, step) for step in STEPS}
    for step, state in saved.items():
        checkpoints.save(step, {"trained": state}, {})
    checkpoints.close()
    return saved


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, {step: leaves(tree) for step, tree in run(folder, TRAINED).items()}


@pytest.fixture(scope="module")
def base():
    return leaves(load_folder("tiny_clip").params)


def test_mean_of_the_checkpoints_in_a_range(workdir, base, tmp_path):
    folder, saved = workdir
    command = ["--workdir", str(folder), str(tmp_path / "mean"), "--average=15:40"]
    assert main(command) == 0
    found = leaves(load_folder(str(tmp_path / "mean")).params)
    for path, leaf in base.items():
        if path in saved[10]:
            leaf = np.mean([np.float64(saved[step][path]) for step in (20, 30, 40)], axis=0)
        assert found[path].dtype == np.float32
        np.testing.assert_allclose(found[path], leaf, rtol=1e-6, atol=1e-9)
    assert "mean of the checkpoints of steps 15 to 40" in (tmp_path / "mean/report.txt").read_text()


def test_without_a_range_it_is_the_latest_to_the_bit(workdir):
    folder, saved = workdir
    found = leaves(trained_model(folder).params)
    for path, leaf in saved[40].items():
        np.testing.assert_array_equal(found[path], leaf)


def test_a_range_that_holds_none_is_refused(workdir, tmp_path, capsys):
    assert main(["--workdir", str(workdir[0]), str(tmp_path / "x"), "--average=41:99"]) == 1
    error = capsys.readouterr().err
    assert "no checkpoint of steps 41 to 99; it has those of [10, 20, 30, 40]" in error
    assert "keep_last" in error and not (tmp_path / "x").exists()


def test_share_of_another_model(workdir, base, tmp_path):
    folder, saved = workdir
    export(folder, tmp_path / "half", "orbax", blend=("tiny_clip", 0.25))
    found = leaves(load_folder(str(tmp_path / "half")).params)
    assert found.keys() == base.keys()
    for path, leaf in base.items():
        own = saved[40].get(path, leaf)
        np.testing.assert_allclose(found[path], 0.25 * leaf + 0.75 * own, rtol=1e-5, atol=1e-7)
    assert "blended: 0.25 of tiny_clip" in (tmp_path / "half/report.txt").read_text()


@pytest.mark.slow
def test_methods_are_folded_before_the_mean_is_mixed(base, tmp_path):
    """The update that LoRA stands for is scaled down with the rest."""
    saved = run(tmp_path / "run", r".*/lora_[ab]", lora={"rank": 2, "towers": ("text",)})
    target = tmp_path / "out"
    options = ["--average=30:40", "--merge", "--blend=tiny_clip:0.5"]
    assert main(["--workdir", str(tmp_path / "run"), str(target), *options]) == 0
    found = vlt.load(target)
    assert not found.config.methods
    trees = [leaves(saved[step]) for step in (30, 40)]
    attention = "text/blocks_0/attention"
    a, b = (
        np.mean([tree[f"{attention}/{name}"] for tree in trees], axis=0)
        for name in ("lora_a", "value/lora_b")
    )
    kernel = leaves(found.params)[f"{attention}/value/kernel"]
    expected = base[f"{attention}/value/kernel"] + 0.5 * (a @ b)
    np.testing.assert_allclose(kernel, expected, atol=1e-6)
    untouched = "visual/blocks_0/mlp/fc1/kernel"
    np.testing.assert_array_equal(leaves(found.params)[untouched], base[untouched])


CLIP = DualEncoderSpec(VisionSpec(8, 4, 8, 2, 2, 16), TextSpec(9, 43, 8, 2, 2, 16), embed_dim=4)
VICLIP = DualEncoderSpec(
    dataclasses.replace(CLIP.visual, temporal_frames=4),
    dataclasses.replace(CLIP.text, context=5),
    embed_dim=4,
)
PIXELS = {"image_size": 8, "mean": [0.5] * 3, "std": [0.5] * 3, "resize": "bicubic", "crop": "none"}


def random_model(spec: DualEncoderSpec, seed: int, **methods) -> LoadedModel:
    module = make_model(spec, methods, frames=4)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), abstract_params(module))
    config = ModelConfig("clip", spec, methods, PIXELS, frames=4)
    return LoadedModel(module, moved(zeros, seed), config, resolve("tiny_clip") / "tokenizer")


def stored(folder, model: LoadedModel) -> str:
    write_model_folder(folder, model.config, model.params, model.tokenizer)
    return str(folder)


def test_a_video_model_and_the_image_model_it_comes_from(tmp_path):
    """Frame embeddings and adapters stay its own; positions of longer texts are cut off."""
    clip, video = random_model(CLIP, 0), random_model(VICLIP, 1, msta={"bottleneck": 2})
    found = blended(video, stored(tmp_path / "clip", clip), 0.25)
    theirs, own, mixed = (leaves(model.params) for model in (clip, video, found))
    assert mixed.keys() == own.keys()
    for path, leaf in mixed.items():
        if path in theirs:
            rest = theirs[path][: len(leaf)] if leaf.ndim else theirs[path]
            expected = 0.25 * rest + 0.75 * own[path]
        else:
            assert "msta" in path.lower() or path == "visual/temporal_embedding"
            expected = own[path]
        np.testing.assert_allclose(leaf, expected, atol=1e-7)
    assert len(mixed["text/position_embedding"]) == 5
    again = blended(video, stored(tmp_path / "viclip", random_model(VICLIP, 2)), 1.0)
    kept = leaves(again.params)["visual/temporal_embedding"]
    np.testing.assert_array_equal(kept, own["visual/temporal_embedding"])


def test_models_that_do_not_fit_are_refused(workdir, tmp_path, capsys):
    video = random_model(VICLIP, 1)
    wide = dataclasses.replace(CLIP, embed_dim=6)
    folder = stored(tmp_path / "wide", random_model(wide, 0))
    with pytest.raises(ModelFolderError, match=r"projection/kernel: \[8, 4\] here, \[8, 6\] there"):
        blended(video, folder, 0.5)
    with pytest.raises(ValueError, match="the share of .* must be between 0 and 1, got 1.5"):
        blended(video, folder, 1.5)
    command = ["--workdir", str(workdir[0]), str(tmp_path / "x")]
    assert main([*command, f"--blend={tmp_path}/absent:0.5"]) == 1
    assert "absent: no such folder" in capsys.readouterr().err
    for option, message in (
        ("--average=2", "'2' is not FIRST:LAST"),
        ("--blend=tiny_clip", "'tiny_clip' is not MODEL:SHARE"),
    ):
        with pytest.raises(SystemExit):
            main([*command, option])
        assert message in capsys.readouterr().err
