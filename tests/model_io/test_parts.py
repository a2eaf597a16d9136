"""Parts of a model taken from other model folders."""

import numpy as np
import pytest

from vlt import load
from vlt.model_io.folder import ModelFolderError
from vlt.model_io.loading import AS_STORED, load_model
from vlt.pytrees.paths import by_path

BRANCH = {"depth": 3, "spare": 0, "alignment": "none", "drop_path": 0.0}


def config(parts, methods=("btadapter",), **options):
    chat = {"checkpoint": "tiny_chat", "frames": 8, "frame_norm": False, "parts": parts}
    return AS_STORED | chat | {"methods": methods, "btadapter": BRANCH | options}


@pytest.fixture(scope="module")
def donor():
    stored = AS_STORED | {"checkpoint": "tiny_branch", "frames": 8, "frame_norm": False}
    return by_path(load_model(stored, 0).params)


def test_a_branch_is_taken_as_it_is(donor, caplog):
    parts = (("visual/btadapter", "tiny_branch"),)
    loaded = load("tiny_chat", frames=8, methods={"btadapter": BRANCH}, parts=parts)
    assert "as training starts" not in caplog.text
    found = by_path(loaded.params)
    taken = [path for path in found if path.startswith("visual/btadapter/")]
    assert len(taken) > 50
    for path in taken:
        np.testing.assert_array_equal(found[path], donor[path])
    fresh = by_path(load_model(config(()), 0).params)
    assert any((fresh[path] != found[path]).any() for path in taken)
    with pytest.raises(ValueError, match="parts=.*tiny_branch.*: must be"):
        load("tiny_chat", parts="tiny_branch")


def test_a_tower_is_taken_and_the_rest_is_new(donor):
    made = config((("visual", "tiny_clip"),), ()) | {"checkpoint": "", "size": "tiny_chat"}
    found = by_path(load_model(made | {"tokenizer": "tiny_clip/tokenizer"}, 0).params)
    np.testing.assert_array_equal(
        found["visual/blocks_3/mlp/fc1/kernel"], donor["visual/blocks_3/mlp/fc1/kernel"]
    )
    assert "visual/projection/kernel" in donor and "visual/projection/kernel" not in found
    assert "text/head/kernel" in found


@pytest.mark.parametrize(
    ("parts", "options", "error", "message"),
    [
        ((("visual/branch", "tiny_branch"),), {}, ValueError, "no leaf under 'visual/branch'"),
        ((("visual", "tiny_branch"),), {}, ValueError, "is in the checkpoint"),
        (
            (("visual/btadapter", "tiny_branch"),),
            {"max_frames": 32},
            ModelFolderError,
            r"time_embedding of shape \[64, 96\], the model of \[32, 96\]",
        ),
        (
            (("visual/btadapter", "tiny_clip"),),
            {},
            ModelFolderError,
            "of shape none",
        ),
    ],
)
def test_a_part_that_does_not_fit_is_an_error(parts, options, error, message):
    with pytest.raises(error, match=message):
        load_model(config(parts, **options), 0)
