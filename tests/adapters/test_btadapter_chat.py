"""What BT-Adapter gives a language model: the tokens of any number of frames, and its options."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlt.adapters.btadapter import BTAdapter, average_frames, halve_time
from vlt.model_io.build import abstract_params, make_model
from vlt.models.spec import ChatSpec, DualEncoderSpec, LlamaSpec, TextSpec, VisionSpec
from vlt.models.vit import VisionTransformer
from vlt.pytrees.paths import by_path

VISION = VisionSpec(8, 4, 8, 5, 2, 16)
CHAT = ChatSpec(VISION, LlamaSpec(16, 20, 8, 1, 2, 16))


def tower(read=2, spec=VISION, **options) -> VisionTransformer:
    options = {"depth": 3, "drop_path": 0.0, "alignment": "none"} | options
    return VisionTransformer(spec, 0, (BTAdapter(**options),), read=read, feature_blocks=2)


def shape_of(frames, **options):
    video = jnp.zeros((1, frames, 8, 8, 3))
    (_, out), _ = jax.eval_shape(tower(**options).init_with_output, jax.random.key(0), video)
    return out["language_tokens"].shape


@pytest.mark.parametrize("frames", [1, 4, 5, 7, 9])
@pytest.mark.parametrize("halving", [False, True])
def test_any_number_of_frames_makes_as_many_tokens(frames, halving):
    """With four rows of time embeddings, 5 to 8 frames are averaged in pairs, 9 in threes."""
    assert shape_of(frames, max_frames=4, temporal_halving=halving) == (1, 5, 8)


def test_frames_that_are_left_are_averaged_by_themselves():
    x = np.arange(5.0).reshape(1, 5, 1, 1)
    assert average_frames(jnp.asarray(x), 2).ravel().tolist() == [0.5, 2.5, 4.0]
    assert average_frames(jnp.asarray(x), 3).ravel().tolist() == [1.0, 3.5]


def test_the_frame_in_the_middle_is_in_both_halves():
    x = jnp.arange(5.0).reshape(1, 5, 1, 1)
    assert halve_time(x)[0, :, :, 0].tolist() == [[0, 2], [1, 3], [2, 4]]
    assert halve_time(x[:, :4])[0, :, :, 0].tolist() == [[0, 2], [1, 3]]


def random_params(module):
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 3, 8, 8, 3)))["params"]
    return jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes)


@functools.partial(jax.jit, static_argnums=0)
def run(module, params, video):
    return module.apply({"params": params}, video)


def language_tokens(module, params, video):
    return run(module, params, video)[1]["language_tokens"]


def test_both_sides_are_weighed_by_half_or_by_the_final_gate():
    video = np.random.default_rng(1).normal(size=(1, 3, 8, 8, 3)).astype(np.float32)
    half, gate = tower(), tower(combine="gate")
    params = random_params(half)
    branch = params["btadapter"]

    def gated(module, value):
        gate = branch | {"final_gate": np.full(8, value, np.float32)}
        return language_tokens(module, params | {"btadapter": gate}, video)

    np.testing.assert_allclose(gated(gate, 0.0), gated(half, 1.0), atol=1e-6)
    clip, ours = gated(gate, 1.0), gated(gate, -1.0)
    np.testing.assert_allclose((clip + ours) / 2, gated(half, 0.0), atol=1e-5)
    states, _ = run(half, params, video)
    np.testing.assert_allclose(clip, states.mean(1), atol=1e-5)


def test_a_branch_without_the_layer_that_is_not_run():
    """The branch stands beside the same blocks, and its tokens are the same."""
    video = np.random.default_rng(1).normal(size=(1, 3, 8, 8, 3)).astype(np.float32)
    whole, short = tower(), tower(depth=2, spare=0)
    params = random_params(whole)
    kept = {name: x for name, x in params["btadapter"].items() if not name.endswith("_2")}
    expected = language_tokens(whole, params, video)
    found = language_tokens(short, params | {"btadapter": kept}, video)
    np.testing.assert_array_equal(found, expected)
    assert {"spatial_2", "temporal_2"} <= params["btadapter"].keys()


def test_a_tower_without_the_block_that_is_not_read():
    """As EVA-CLIP-G's 39 blocks of 40, of which the last one is read."""
    video = np.random.default_rng(1).normal(size=(1, 3, 8, 8, 3)).astype(np.float32)
    short = tower(read=1, spec=dataclasses.replace(VISION, layers=VISION.layers - 1))
    params = random_params(tower())
    kept = {name: x for name, x in params.items() if name != f"blocks_{VISION.layers - 1}"}
    found = language_tokens(short, kept, video)
    np.testing.assert_array_equal(found, language_tokens(tower(), params, video))


def test_spatial_layers_start_as_the_blocks_whose_states_they_read():
    for read, blocks in ((2, [2, 3, 4]), (1, [3, 4, 4])):
        spec = ChatSpec(VISION, CHAT.text, read=read)
        method = BTAdapter(depth=3)
        params = random_params(tower(read=read))
        params = {"visual": params}
        branch = method.init_from_backbone(params, spec)["visual"]["btadapter"]
        for layer, block in enumerate(blocks):
            for path, leaf in by_path(branch[f"spatial_{layer}"]).items():
                expected = by_path(params["visual"][f"blocks_{block}"])[path]
                np.testing.assert_array_equal(leaf, expected, err_msg=path)


def test_what_cannot_be_is_a_sentence():
    with pytest.raises(ValueError, match="combine='gate' with btadapter.gates='none': there is"):
        BTAdapter(combine="gate", gates="none")
    with pytest.raises(ValueError, match="btadapter.spare=3: fewer than depth=3"):
        BTAdapter(depth=3, spare=3)
    with pytest.raises(ValueError, match="depth=1 and btadapter.spare=1: 0 layers beside the 4"):
        make_model(CHAT, {"btadapter": {"depth": 1}})
    features = jnp.zeros((1, 3, 5, 8))
    with pytest.raises(ValueError, match="enter the tower 2 blocks before .* 3 layers need more"):
        jax.eval_shape(tower(depth=4).init, jax.random.key(0), features)
    with pytest.raises(ValueError, match=r"features have shape \(4, 8\) in each frame, .*\(5, 8\)"):
        jax.eval_shape(tower().init, jax.random.key(0), features[:, :, 1:])


def test_no_option_of_a_conversation_changes_an_embedding():
    spec = DualEncoderSpec(VISION, TextSpec(6, 11, 8, 1, 2, 16), embed_dim=4)
    programs = []
    for options in ({}, {"spare": 0, "combine": "gate", "temporal_halving": True}):
        model = make_model(spec, {"btadapter": {"depth": 2, "drop_path": 0.0} | options})
        params, video = abstract_params(model), jax.ShapeDtypeStruct((1, 2, 8, 8, 3), np.uint8)

        def encode(params, video, model=model):
            return model.apply({"params": params}, video, method="encode_video")[0]

        programs.append(jax.jit(encode).lower(params, video).as_text())
    assert programs[0] == programs[1]
