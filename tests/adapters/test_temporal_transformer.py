"""Blocks over time: against numpy, as copies, and how they depend on the order of frames."""

import jax
import numpy as np
import pytest
import small_blip
from small_blip import (
    FRAMES,
    SPEC,
    captioner,
    frame_features,
    gradients,
    leaves,
    random_params,
    video_weights,
    videos,
)

from vlt.adapters.temporal_transformer import TemporalTransformer
from vlt.model_io.build import abstract_params, make_model
from vlt.models.dual_encoder import DualEncoder
from vlt.models.sizes import SIZES
from vlt.models.spec import DualEncoderSpec, TextSpec

SMALL = TemporalTransformer(layers=2)
ORDERED = TemporalTransformer(layers=2, temporal_position="learned")
MODEL, BARE = captioner(SMALL), captioner()
PARAMS = random_params(MODEL)
ORDER = [2, 0, 3, 1]


def test_counts_of_the_paper():
    """Token Mixing's table counts weights alone; biases and norms would make it 28,342,272."""
    rule = "visual/temporal_transformer/.*"
    assert video_weights(rule, TemporalTransformer()) == 28_311_552
    model = SIZES["blip_b16_captioner"]
    added = leaves(abstract_params(make_model(model, {"temporal_transformer": {}})))
    total = sum(leaf.size for path, leaf in added.items() if "temporal_transformer" in path)
    # 4 blocks: biases of out, fc1 and fc2, and two LayerNorms.
    assert total == 28_311_552 + 4 * (768 + 3072 + 768 + 4 * 768)


def test_is_two_blocks_over_the_frames_at_every_position():
    x = frame_features(BARE, PARAMS, videos()).astype(np.float64).swapaxes(1, 2)
    for name in ("blocks_0", "blocks_1"):
        x = small_blip.block(PARAMS["visual"]["temporal_transformer"][name], x, 2, 1e-5)
    ours = frame_features(MODEL, PARAMS, videos())
    np.testing.assert_allclose(ours, x.swapaxes(1, 2), atol=1e-5)


def test_frames_in_another_order_come_out_in_that_order():
    expected = frame_features(MODEL, PARAMS, videos())
    moved = frame_features(MODEL, PARAMS, videos()[:, ORDER])
    np.testing.assert_allclose(moved, expected[:, ORDER], atol=1e-5)
    assert np.abs(expected - frame_features(BARE, PARAMS, videos())).max() > 0.1


def test_learned_positions_see_the_order():
    model = captioner(ORDERED)
    params = random_params(model)
    expected, moved = (frame_features(model, params, v) for v in (videos(), videos()[:, ORDER]))
    assert np.abs(moved - expected[:, ORDER]).max() > 0.1
    table = params["visual"]["temporal_transformer"]["temporal_position"]
    assert table.shape == (64, 16)
    x = frame_features(BARE, params, videos()).swapaxes(1, 2) + table[:FRAMES].astype(np.float64)
    for name in ("blocks_0", "blocks_1"):
        x = small_blip.block(params["visual"]["temporal_transformer"][name], x, 2, 1e-5)
    np.testing.assert_allclose(expected, x.swapaxes(1, 2), atol=1e-5)


def test_any_number_of_frames():
    assert frame_features(MODEL, PARAMS, videos(7)).shape == (2, 7, 17, 16)


def test_in_a_joint_space_the_mean_of_cls_tokens_is_blind_to_order():
    spec = DualEncoderSpec(SPEC.visual, TextSpec(5, 11, 16, 1, 2, 32), embed_dim=8)

    def mean_and_frames(method):
        """Means and frames of the videos, then of the videos with frames in another order."""
        model = DualEncoder(spec, (method,), FRAMES)
        params = random_params(model)
        both = np.concatenate([videos(), videos()[:, ORDER]])
        mean, out = jax.jit(
            lambda v: model.apply({"params": params}, v, capture=True, method="encode_video")
        )(both)
        return np.split(np.asarray(mean), 2), np.split(np.asarray(out["frames"]), 2)

    (mean, moved), (frames, moved_frames) = mean_and_frames(SMALL)
    assert frames.shape == (2, FRAMES, 8)
    np.testing.assert_allclose(moved, mean, atol=1e-5)
    np.testing.assert_allclose(moved_frames, frames[:, ORDER], atol=1e-5)
    (mean, moved), _ = mean_and_frames(ORDERED)
    assert np.abs(moved - mean).max() > 1e-3


def test_starts_as_the_first_blocks():
    started = SMALL.init_from_backbone(PARAMS, SPEC)["visual"]
    for j in range(2):
        copies = leaves(started["temporal_transformer"][f"blocks_{j}"])
        source = leaves(started[f"blocks_{j}"])
        assert source.keys() - copies.keys() == {
            f"attention/{name}/bias" for name in ("query", "key", "value")
        }
        for path, leaf in copies.items():
            np.testing.assert_array_equal(leaf, source[path])
    fresh = ORDERED.init_from_backbone(random_params(captioner(ORDERED)), SPEC)
    assert "temporal_position" in fresh["visual"]["temporal_transformer"]


def test_every_leaf_gets_a_gradient():
    model = captioner(ORDERED)
    found = gradients(model, random_params(model))
    ours = [path for path in found if "temporal_transformer" in path]
    assert len(ours) == 2 * 13 + 1
    for path in ours:
        assert np.abs(found[path]).max() > 1e-6, path


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        (
            {"temporal_transformer": {"layers": 0}},
            "temporal_transformer.layers must be >= 1, got 0",
        ),
        ({"temporal_transformer": {}}, "layers=4: the vision tower has 2 blocks to copy"),
        (
            {"temporal_transformer": {"temporal_position": "sine"}},
            "temporal_transformer.*sine; choose from none, learned",
        ),
        (
            {
                "temporal_transformer": {
                    "layers": 2,
                    "temporal_position": "learned",
                    "max_frames": 3,
                }
            },  # fmt: skip
            "4 frames, temporal_transformer.max_frames is 3",
        ),
    ],
)
def test_options_that_do_not_fit(methods, message):
    with pytest.raises(ValueError, match=message):
        make_model(SPEC, methods, FRAMES)


def test_merged_tokens_are_refused():
    with pytest.raises(ValueError, match="temporal_transformer finds patches by their places"):
        make_model(SPEC, {"tome": {"r": 2}, "temporal_transformer": {"layers": 1}}, FRAMES)
