"""Trees of arrays come back from disk as they were, or an error says why not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from trees import TREE, assert_equal, largest_file, shapes

from vlt.storage import trees


@pytest.mark.smoke
def test_a_model_folder_comes_back_on_the_host_or_where_asked(tmp_path):
    trees.save_tree(tmp_path / "weights", TREE)
    loaded = trees.load_tree(tmp_path / "weights")
    assert_equal(loaded, TREE)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(loaded))
    placed = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    loaded = trees.load_tree(tmp_path / "weights", shapes(TREE, placed))
    assert_equal(loaded, TREE)
    assert all(leaf.sharding == placed for leaf in jax.tree.leaves(loaded))
    assert trees.load_shapes(tmp_path / "weights") == shapes(TREE)


def test_a_model_folder_is_replaced_only_when_told(tmp_path):
    trees.save_tree(tmp_path / "weights", TREE)
    with pytest.raises(trees.CheckpointSaveError, match="weights exists already"):
        trees.save_tree(tmp_path / "weights", {"other": np.ones(2)})
    assert_equal(trees.load_tree(tmp_path / "weights"), TREE)
    trees.save_tree(tmp_path / "weights", {"other": np.ones(2)}, overwrite=True)
    assert_equal(trees.load_tree(tmp_path / "weights"), {"other": np.ones(2)})


def test_leaves_are_written_one_after_another(tmp_path, monkeypatch):
    monkeypatch.setattr(trees, "_PIECE", 1)  # each leaf is a piece of its own
    leaves = traverse_util.flatten_dict(TREE, sep="/")
    size = sum(np.asarray(leaf).nbytes for leaf in leaves.values())
    given = ((path, np.asarray(leaf)) for path, leaf in leaves.items())
    trees.save_leaf_by_leaf(tmp_path / "weights", given, size)
    assert_equal(trees.load_tree(tmp_path / "weights"), TREE)
    assert "/" not in (tmp_path / "weights" / "commit_success.txt").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]
    with pytest.raises(trees.CheckpointSaveError, match="weights exists already"):
        trees.save_leaf_by_leaf(tmp_path / "weights", iter(()), 0)
    with pytest.raises(trees.CheckpointSaveError, match="no space left on the device"):
        trees.save_leaf_by_leaf(tmp_path / "other", iter(()), 2**60)


def test_16_bits_are_kept_where_asked(tmp_path):
    tree = {"head": {"kernel": np.ones((2, 3), jnp.bfloat16)}}
    trees.save_tree(tmp_path / "weights", tree)
    wanted = {"head": {"kernel": np.zeros((2, 3), np.float32)}}
    with pytest.raises(trees.CheckpointMismatchError, match=r"bfloat16\[2, 3\] in the checkpoint"):
        trees.load_tree(tmp_path / "weights", wanted)
    assert_equal(trees.load_tree(tmp_path / "weights", wanted, halves=True), tree)
    wanted = {"head": {"kernel": np.zeros((2, 4), np.float32)}}
    with pytest.raises(trees.CheckpointMismatchError, match=r"float32\[2, 4\] wanted"):
        trees.load_tree(tmp_path / "weights", wanted, halves=True)
    placed = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = {"head": {"kernel": jax.ShapeDtypeStruct((2, 3), np.float32, sharding=placed)}}
    assert_equal(trees.load_tree(tmp_path / "weights", wanted, halves=True), tree)


def test_another_model_lists_every_leaf_that_differs(tmp_path):
    trees.save_tree(tmp_path / "weights", TREE)
    wanted = {
        "visual": {
            "projection": {"kernel": np.zeros((2, 4), np.float32)},
            "class_token": np.zeros(2, np.float32),
            "time_embedding": np.zeros((64, 2), np.float32),
        }
    }
    with pytest.raises(trees.CheckpointMismatchError) as raised:
        trees.load_tree(tmp_path / "weights", wanted)
    message = str(raised.value)
    assert str(tmp_path / "weights") in message and "4 leaves differ" in message
    for line in (
        "visual/time_embedding: not in the checkpoint",
        "logit_scale: only in the checkpoint",
        "visual/projection/kernel: float32[2, 3] in the checkpoint, float32[2, 4] wanted",
        "visual/class_token: bfloat16[2] in the checkpoint, float32[2] wanted",
    ):
        assert line in message


def test_absent_half_written_and_damaged_folders_say_so(tmp_path):
    with pytest.raises(trees.CheckpointError, match="nowhere does not exist"):
        trees.load_tree(tmp_path / "nowhere")
    (tmp_path / "weights.orbax-checkpoint-tmp").mkdir()
    with pytest.raises(trees.CheckpointError, match="weights is half written"):
        trees.load_tree(tmp_path / "weights")
    (tmp_path / "empty").mkdir()
    with pytest.raises(trees.CheckpointError, match="empty is not a complete checkpoint"):
        trees.load_tree(tmp_path / "empty")
    random = np.random.default_rng(0).normal(size=(256, 256))
    trees.save_tree(tmp_path / "cut", {"kernel": random})
    largest_file(tmp_path / "cut").write_bytes(b"")
    with pytest.raises(trees.CheckpointError, match="cut could not be read"):
        trees.load_tree(tmp_path / "cut")


def test_a_fingerprint_sees_path_type_shape_and_value():
    base = {"a": np.zeros(4, np.float32)}
    others = [
        {"b": np.zeros(4, np.float32)},
        {"a": np.zeros(4, np.int32)},
        {"a": np.zeros((2, 2), np.float32)},
        {"a": np.asarray([0, 0, 0, 1], np.float32)},
        {},
    ]
    prints = {trees.fingerprint(tree) for tree in [base, *others]}
    assert len(prints) == 1 + len(others)
    assert trees.fingerprint(jax.tree.map(jnp.asarray, base)) in prints


def test_tree_under_a_relative_path_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trees.save_tree("tree", {"a": np.arange(3)})
    np.testing.assert_array_equal(trees.load_tree("tree")["a"], np.arange(3))
    np.testing.assert_array_equal(
        trees.load_tree("tree", {"a": np.zeros(3, int)})["a"], np.arange(3)
    )


def test_tree_does_not_tell_where_it_was_written(tmp_path):
    trees.save_tree(tmp_path / "tree", {"a": np.arange(3)})
    for path in (tmp_path / "tree").rglob("*"):
        assert path.is_dir() or str(tmp_path).encode() not in path.read_bytes(), path
    np.testing.assert_array_equal(trees.load_tree(tmp_path / "tree")["a"], np.arange(3))


def test_errors_are_told_in_a_line_without_what_libraries_append():
    error = ValueError("File too large [tensorstore_spec='{}'] [os_error_code='27']\nand a stack")
    assert trees.first_line(error) == "ValueError: File too large"
    assert trees.first_line(OSError()) == "OSError: no reason given"
