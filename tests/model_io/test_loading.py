"""A config's model gets all of the checkpoint, new leaves from the seed, and nothing else."""

import dataclasses
import functools
import shutil

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import common
from vlt.data.manifests.resources import resolve
from vlt.model_io.build import abstract_params
from vlt.model_io.folder import ModelFolderError, read_model_folder, write_model_folder
from vlt.model_io.loading import LoadedModel, load_folder, load_model
from vlt.models.sizes import SIZES
from vlt.models.vit import VisionTransformer


def model_config(**changes) -> ConfigDict:
    config = common.base().model
    config.update(checkpoint="tiny_clip", size="tiny_clip", context=16)
    config.update(btadapter={"depth": 2})
    config.update(changes)
    return config


@functools.cache
def branched() -> LoadedModel:
    """The model with BT-Adapter, whose new leaves are drawn from seed 0."""
    return load_model(model_config(methods=("btadapter",)), 0)


def flat(tree) -> dict[str, np.ndarray]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def test_converted_leaves_keep_paths_and_values_whatever_is_added():
    bare = flat(load_model(model_config(), 0).params)
    adapted = flat(branched().params)
    for path, leaf in bare.items():
        np.testing.assert_array_equal(adapted[path], leaf, err_msg=path)
    new = adapted.keys() - bare.keys()
    assert new and all(path.startswith("visual/btadapter/") for path in new)


def test_branch_starts_as_a_copy_of_the_loaded_backbone_not_of_a_random_one():
    params = branched().params["visual"]
    for j in range(2):
        copied, original = params["btadapter"][f"spatial_{j}"], params[f"blocks_{2 + j}"]
        jax.tree.map(np.testing.assert_array_equal, copied, original)


def test_copies_of_blocks_leave_out_what_other_methods_put_there():
    config = model_config(methods=("lora", "btadapter"), lora={"share_a": False})
    loaded = load_model(config, 0)
    assert flat(loaded.params).keys() == flat(abstract_params(loaded.module)).keys()


def test_new_leaves_come_from_the_seed():
    same, other = (
        flat(load_model(model_config(methods=("btadapter",)), seed).params) for seed in (0, 1)
    )
    first = flat(branched().params)
    name = "visual/btadapter/time_embedding"
    np.testing.assert_array_equal(first[name], same[name])
    assert np.abs(first[name] - other[name]).max() > 0.1


def test_trained_leaves_of_a_stored_method_are_not_initialised_again(tmp_path):
    loaded = branched()
    params = jax.tree.map(lambda leaf: leaf + 1, loaded.params)
    config = dataclasses.replace(loaded.config, methods={"btadapter": {"depth": 2}})
    write_model_folder(tmp_path / "model", config, params, loaded.tokenizer)
    again = load_model(model_config(checkpoint=str(tmp_path / "model")), 0)
    assert [type(m).__name__ for m in again.module.methods] == ["BTAdapter"]
    jax.tree.map(np.testing.assert_array_equal, again.params, params)


def test_methods_of_a_folder_may_be_read_with_other_options(tmp_path):
    """The published zero-shot evaluation drops the gates of gated weights."""
    loaded = branched()
    write_model_folder(tmp_path / "m", loaded.config, loaded.params, loaded.tokenizer)
    plain = model_config(
        checkpoint=str(tmp_path / "m"), methods=("btadapter",), btadapter={"gates": "none"}
    )
    module = load_model(plain, 0).module
    assert (module.methods[0].gates, module.methods[0].depth) == ("none", 2)


def test_wrong_checkpoints_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ModelFolderError, match="no such folder"):
        load_model(model_config(checkpoint=str(tmp_path / "absent")), 0)
    with pytest.raises(ModelFolderError, match="is not of config.model.size='clip_b32'"):
        load_model(model_config(size="clip_b32"), 0)
    near = dataclasses.replace(SIZES["tiny_clip"], embed_dim=65)
    monkeypatch.setitem(SIZES, "near", near)
    with pytest.raises(ModelFolderError, match="size='near': embed_dim is 64, not 65; set"):
        load_model(model_config(size="near"), 0)
    with pytest.raises(ModelFolderError, match="'tiny_klip', which there is not .did you mean"):
        load_model(model_config(size="tiny_klip"), 0)
    half = tmp_path / "half"
    shutil.copytree(resolve("tiny_clip"), half)
    (half / "config.json").unlink()
    with pytest.raises(ModelFolderError, match="half written or not a model folder"):
        load_model(model_config(checkpoint=str(half)), 0)
    shutil.copytree(resolve("tiny_clip"), tmp_path / "no_weights")
    shutil.rmtree(tmp_path / "no_weights" / "weights")
    with pytest.raises(ModelFolderError, match="no_weights"):
        load_model(model_config(checkpoint=str(tmp_path / "no_weights")), 0)


TEMPME = {"layers": (2, 3), "join": (2, 2), "r": 1}


@pytest.fixture(scope="module")
def tempme(tmp_path_factory):
    """A model folder of TempMe for four frames."""
    folder = tmp_path_factory.mktemp("tempme") / "model"
    loaded = load_model(model_config(methods=("tempme",), tempme=TEMPME, frames=4), 0)
    write_model_folder(folder, loaded.config, loaded.params, loaded.tokenizer)
    return str(folder)


@pytest.mark.quick(3)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # The method options in the folder do not fit the number of frames.
        ({"frames": 6}, r"join=\(2, 2\) does not divide 6 frames.*model is for 4 frames\)"),
        ({"frames": 8}, r"blocks_2/clip_position: \[4, 96\] in the checkpoint, \[8, 96\] in the"),
        ({"frames": 8}, r"is for frames=4 and .*config\.model for frames=8 and "),
        ({"layers": (1, 3)}, r"blocks_1/clip_position: none in the checkpoint, \[4, 96\]"),
        ({"layers": (1, 3)}, r"blocks_2/clip_position: \[4, 96\] in the checkpoint, none in the"),
        ({"layers": (2,), "join": (4,)}, r"blocks_3/clip_position: .* none in the config"),
        ({"size": "clip_b32"}, r"is not of config\.model\.size='clip_b32'"),
    ],
)
def test_clip_positions_of_other_frames_or_layers_are_refused(
    tempme, monkeypatch, changes, message
):
    """They are refused before anything is compiled."""
    monkeypatch.setattr(jax, "jit", None)
    options = {name: changes[name] for name in ("layers", "join") if name in changes}
    others = {name: value for name, value in changes.items() if name not in options}
    config = model_config(checkpoint=tempme, frames=4, methods=("tempme",), tempme=options)
    config.update(others)
    with pytest.raises((ModelFolderError, ValueError), match=message):
        load_model(config, 0)


def test_clip_positions_may_be_left_out_whole(tempme):
    config = model_config(checkpoint=tempme, frames=8, methods=("tempme",))
    config.update(tempme={"positions": False})
    assert not load_model(config, 0).module.methods[0].positions


def test_packaged_model_is_whole_and_small():
    loaded = load_folder("tiny_clip")
    assert isinstance(loaded.module.bind({"params": loaded.params}).visual, VisionTransformer)
    config, params = read_model_folder(resolve("tiny_clip"))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 709_729
    assert not config.methods, "the head of its pre-training is left out"
    files = [path for path in resolve("tiny_clip").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 6e6


@pytest.mark.parametrize(
    "changes",
    [
        {"methods": ("nosuch",)},
        {"dtype": "float16"},
        {"methods": ("tempme",), "tempme": TEMPME | {"r": 50}},
        # An error about frames in which those of the folder play no part.
        {"methods": ("tempme",), "tempme": TEMPME, "frames": 6},
    ],
)
def test_errors_have_no_hint_at_the_frames_that_a_folder_is_for(changes):
    with pytest.raises(ValueError) as error:
        load_model(model_config(**changes), 0)
    assert "frames)" not in str(error.value) and "is for 1" not in str(error.value)


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    loaded = load_folder("tiny_clip")
    params = jax.tree.map(np.array, loaded.params)
    params["visual"]["class_embedding"][3] = np.inf
    write_model_folder(tmp_path / "inf", loaded.config, params, loaded.tokenizer)
    with pytest.raises(
        ModelFolderError, match=r"1 of 96 weights in visual/class_embedding .*\[3\]"
    ):
        load_model(model_config(checkpoint=str(tmp_path / "inf")), 0)
