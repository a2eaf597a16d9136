"""Towers that hold the patches of all frames in one group (ViCLIP): which methods work there."""

import functools

import jax
import numpy as np
import pytest
from random_leaves import random_params

from vlt.adapters.st_adapter import STAdapter
from vlt.inspect import count_parameters
from vlt.methods import method_classes
from vlt.model_io.build import abstract_params, make_model
from vlt.models.block import Block
from vlt.models.dual_encoder import DualEncoder
from vlt.models.sizes import SIZES
from vlt.models.spec import DualEncoderSpec, TextSpec, VisionSpec
from vlt.models.tokens import Tokens

WIDTH, FRAMES, SIDE = 8, 3, 3
JOINT = DualEncoderSpec(
    VisionSpec(8, 4, WIDTH, 2, 2, 16, temporal_frames=4),
    TextSpec(6, 11, WIDTH, 2, 2, 16),
    embed_dim=4,
)
RNG = np.random.default_rng(0)
VIDEO = RNG.normal(size=(2, FRAMES, 8, 8, 3)).astype(np.float32)
FOR_BOTH = {  # with options that fit the small tower
    "lora": {"rank": 2, "share_a": False, "targets": ("query", "value", "fc1")},
    "adapter": {"positions": ("attention", "before_mlp", "mlp")},
    "adaptformer": {"bottleneck": 4},
    "prompt": {"tokens": 2},
    "msta": {"bottleneck": 4, "scale": 1.0},
    "st_adapter": {"positions": ("before_attention", "before_mlp"), "width": 4},
    "caption_reconstruction": {},
    "patch_dropout": {},
    "vificlip": {"visual_tokens": 2, "visual_depth": 2, "text_tokens": 2, "text_depth": 2},
    "vop": {"tokens": 2, "prefix": 1, "suffix": 1},
}
SILENT = {"caption_reconstruction", "patch_dropout"}  # change nothing outside training


FRAMES_APART = [name for name, m in method_classes().items() if "frame_groups" in m.needs]


def test_those_that_take_each_token_alone_or_know_its_frame_are_for_both():
    joint = {
        name for name, method in method_classes().items() if "frame_groups" not in method.needs
    }
    text_alone, scores_alone = {"vl_adapter", "token_rows"}, {"mug", "ost"}
    of_a_tower_alone = {"attention_probe"}
    assert joint == FOR_BOTH.keys() | text_alone | scores_alone | of_a_tower_alone


@pytest.mark.parametrize(
    "name", [name for name, method in method_classes().items() if "frame_groups" in method.needs]
)
def test_methods_of_frames_apart_are_refused(name):
    with pytest.raises(ValueError, match=rf"^{name} needs every frame.*temporal_frames=8"):
        make_model(SIZES["viclip_b16"], {"lora": {}, name: {}}, 8)


def test_matched_prompts_are_refused():
    options = {"prompt": {"deep": False, "matched": True}}
    make_model(SIZES["clip_b16"], options)
    with pytest.raises(ValueError, match="prompt.matched=True: .*set it False"):
        make_model(SIZES["viclip_b16"], options)


@functools.cache
def program(model: DualEncoder):
    def encode(params, video):
        return model.apply({"params": params}, video, method="encode_video")[0]

    return jax.jit(encode)


@pytest.mark.quick(2)
@pytest.mark.parametrize("name", sorted(FOR_BOTH.keys() - SILENT))
def test_the_others_change_the_model_and_cls_tokens_alone_are_the_same(name):
    model = make_model(JOINT, {name: FOR_BOTH[name]}, FRAMES)
    params = random_params(model)
    found, whole, bare = (
        program(m)(params, VIDEO)
        for m in (model, model.clone(cls_only=False), model.clone(methods=()))
    )
    np.testing.assert_allclose(found, whole, atol=1e-5)
    assert np.abs(found - bare).max() > 1e-3


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("position", ["before_attention", "before_mlp"])
def test_st_adapter_is_the_per_frame_form_on_the_same_grid(position, depthwise):
    """With attention and MLP zeroed, only the adapter lets tokens meet."""
    method = STAdapter((position,), width=4, depthwise=depthwise)
    block = Block(2, 16, "quick_gelu", 1e-5, methods=(method,))
    x = RNG.normal(size=(2, 1, 1 + SIDE**2 * FRAMES, WIDTH)).astype(np.float32)
    shapes = jax.eval_shape(block.init, jax.random.key(0), Tokens(x, frames=FRAMES))["params"]
    params = jax.tree.map(lambda leaf: RNG.normal(0, 0.4, leaf.shape).astype(np.float32), shapes)
    for name in ("attention", "mlp"):
        params[name] = jax.tree.map(np.zeros_like, params[name])

    def run(tokens, **fields):
        built = block.clone(**fields)
        return np.asarray(jax.jit(lambda p: built.apply({"params": p}, tokens).x)(params))

    def by_frame(x):
        return x[:, 0, 1:].reshape(2, SIDE**2, FRAMES, WIDTH).swapaxes(1, 2)

    joint = run(Tokens(x, frames=FRAMES))
    cls = np.broadcast_to(x[:, :, :1], (2, FRAMES, 1, WIDTH))
    apart = run(Tokens(np.concatenate([cls, by_frame(x)], 2)))
    np.testing.assert_allclose(by_frame(joint), apart[:, :, 1:], atol=1e-6)
    np.testing.assert_allclose(joint[:, :, 0], apart[:, 0, :1], atol=1e-6)
    assert np.abs(by_frame(joint) - by_frame(x)).max() > 0.1
    alone = run(Tokens(x, frames=FRAMES), cls_read=True)
    np.testing.assert_allclose(alone, joint[:, :, :1], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("adaptformer", {"bottleneck": 256, "towers": ("visual", "text")}, 7_885_824),
        (
            "lora",
            {"rank": 256, "targets": ("query", "value"), "share_a": False, "towers": ("visual",)},
            9_437_184,
        ),
    ],
)
def test_counts_of_mstas_rows(name, options, expected):
    model = make_model(SIZES["viclip_b16"], {name: options}, 8)
    rules = ((r".*/(adaptformer/.*|lora_[ab])", {"lr": 1.0}), (".*", "frozen"))
    assert count_parameters(model, abstract_params(model), rules)["trainable_params"] == expected
