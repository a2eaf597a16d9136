"""Vita-CLIP against golden numbers of the published modules, and what it refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_numbers import numbers
from golden_recognition import check_gradients, converted

from vlt.adapters.vita_clip import VitaCLIP
from vlt.merging.tome import ToMe
from vlt.model_io.build import abstract_params
from vlt.models.dual_encoder import DualEncoder
from vlt.models.layers import LayerNorm
from vlt.models.sizes import SIZES
from vlt.models.spec import DualEncoderSpec, TextSpec, VisionSpec

NAME = "vitaclip/a_frames4"


pytestmark = pytest.mark.usefixtures("highest_precision")


@pytest.fixture(scope="module")
def golden(shared):
    """Golden numbers without the placeholder ids, since contexts are inserted here."""
    found = numbers(shared, NAME)
    ids = found["tokenized_prompts"]
    return found | {"ids": np.concatenate([ids[:, :1], ids[:, 5:]], axis=1)}


@pytest.fixture(scope="module")
def model(shared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vita_clip")
    return converted(shared, NAME, folder, "visual.heads=2", "text.heads=2")


def apply(model, params, method, *inputs, **options):
    return model.module.apply({"params": params}, *inputs, method=method, **options)


def test_options_are_read_off_the_tensors(model):
    assert model.config.methods == {
        "vita_clip": {
            "frames": 4,
            "global_prompts": 3,
            "local": True,
            "summary": True,
            "text_prompts": 4,
            "classes": 4,
            "position": "end",
        }
    }
    assert model.config.frames == 4


def test_trace_of_the_vision_tower(golden, model):
    wanted = ("pre_norm", "norm1", "post_norm", "cls_proj", "vita_clip")
    whole = dataclasses.replace(model, module=model.module.clone(cls_only=False))

    @jax.jit
    def run(params, video):
        (_, out), state = apply(
            whole,
            params,
            "encode_video",
            video,
            capture=True,
            mutable=["intermediates"],
            capture_intermediates=lambda module, _: module.name in wanted,
        )
        return out, state["intermediates"]["visual"]

    out, traced = run(model.params, golden["video"])
    at = {"atol": 5e-5}
    np.testing.assert_allclose(traced["pre_norm"]["__call__"][0], golden["after_ln_pre"], **at)
    np.testing.assert_allclose(
        traced["post_norm"]["__call__"][0][:, :, 0], golden["cls_ln_post"], **at
    )
    np.testing.assert_allclose(out["video_features"], golden["video_features"], **at)
    t, g = 4, 3
    for layer in range(3):
        block = traced[f"blocks_{layer}"]
        made, name = block["vita_clip"], f"block{layer}"
        query = made["cls_proj"]["__call__"][0][:, 0]
        np.testing.assert_allclose(query, golden[f"{name}_cls_proj"], **at)
        attended = made["__call__"][0][1][:, 0] - query
        np.testing.assert_allclose(attended, golden[f"{name}_summary_attention"], **at)
        # Here the summary stands after the local prompts, not at the end.
        read = np.roll(golden[f"{name}_attention_input"][:, :, 1 + t :], 1, axis=2)
        read = np.concatenate([golden[f"{name}_attention_input"][:, :, : 1 + t], read], axis=2)
        norm = model.params["visual"][f"blocks_{layer}"]["norm1"]
        expected = LayerNorm(epsilon=1e-5).apply({"params": norm}, read)
        np.testing.assert_allclose(block["norm1"]["__call__"][0], expected, **at)
        tokens = np.delete(golden[f"{name}_tokens"], range(1, 1 + g), axis=2)
        np.testing.assert_allclose(out[f"block_{layer}"].x, tokens, **at)


@pytest.mark.quick(1)
@pytest.mark.parametrize("position", ["middle", "front", "end"])
def test_contexts_of_classes(golden, model, position):
    """Contexts stand at `position` and follow the given class; without a class, there are none."""
    (method,) = model.module.methods
    module = model.module.clone(methods=(dataclasses.replace(method, position=position),))

    @jax.jit
    def encode(params, ids, classes):
        def run(module, *inputs, **options):
            return module.apply({"params": params}, *inputs, method="encode_text", **options)[1]

        said = run(module, ids, classes=classes, capture=True)
        unsaid = run(module, ids)["text_features"]
        plain = run(module.clone(methods=()), ids)["text_features"]
        return said["text_features"], said["stem"].x[:, 0], unsaid, plain

    found, words, unsaid, plain = encode(model.params, golden["ids"], jnp.arange(4))
    key = "text_features" + ("" if position == "end" else f"_{position}")
    np.testing.assert_allclose(found, golden[key], atol=5e-5)
    np.testing.assert_array_equal(unsaid, plain)
    if position == "end":
        words -= model.params["text"]["position_embedding"]
        np.testing.assert_allclose(words, golden["prompts_in"], atol=5e-5)
    other = encode(model.params, golden["ids"], jnp.array([1, 1, 2, 3]))[0]
    np.testing.assert_allclose(found[1:], other[1:], atol=1e-5)
    assert np.abs(found[0] - other[0]).max() > 1e-2


@pytest.mark.slow
def test_loss_and_gradients(golden, model):
    """Gradients of all leaves, and so of those that the published code trains."""

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        video = apply(model, params, "encode_video", golden["video"])[0]
        text = apply(model, params, "encode_text", golden["ids"], classes=jnp.arange(4))[0]
        logits = jnp.exp(params["logit_scale"]) * video @ text.T
        return optax.softmax_cross_entropy_with_integer_labels(logits, golden["labels"]).mean()

    value, gradients = loss(model.params)
    np.testing.assert_allclose(value, golden["loss"], rtol=1e-5)
    for prefix in ("", "all_trained_"):
        check_gradients(golden, "vita_clip", gradients, prefix)


def test_twice_the_frames_are_seen_in_runs(golden, model):
    twice = np.concatenate([golden["video"], golden["video"][:, ::-1]], axis=1)
    _, out = jax.jit(lambda p, x: apply(model, p, "encode_video", x))(model.params, twice)
    expected = golden["video_features_twice_the_frames"]
    np.testing.assert_allclose(out["video_features"], expected, atol=5e-5)


@pytest.mark.parametrize(
    ("options", "frames", "message"),
    [
        ({}, 12, "12 frames, vita_clip.frames is 8: use that many, or a multiple"),
        ({"text_prompts": 75}, 8, "text_prompts=75 leave 2 of the text tower's 77 positions"),
    ],
)
def test_sizes_that_do_not_fit(options, frames, message):
    with pytest.raises(ValueError, match=message):
        VitaCLIP(**options).check(SIZES["clip_b16"], frames)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 0}, "vita_clip.frames must be >= 1, got 0"),
        ({"classes": 3, "text_prompts": 0}, "classes=3 with vita_clip.text_prompts=0"),
        ({"position": "back"}, "unknown vita_clip.position: back; choose from end, middle, front"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        VitaCLIP(**options)


def test_other_frames_and_long_texts_are_a_sentence(golden, model):
    params = jax.eval_shape(lambda: model.params)
    with pytest.raises(ValueError, match="5 frames, vita_clip.frames is 4"):
        jax.eval_shape(
            lambda p, x: apply(model, p, "encode_video", x), params, np.zeros((1, 5, 24, 24, 3))
        )
    with pytest.raises(ValueError, match="77 text tokens and 4 of methods, but the tower's cont"):
        jax.eval_shape(
            lambda p, x: apply(model, p, "encode_text", x, classes=x[:, 0]),
            params,
            np.zeros((1, 77), np.int32),
        )


def test_what_merges_comes_first():
    """The attention that merging reads must cover all tokens that attended."""
    spec = DualEncoderSpec(
        VisionSpec(16, 4, 16, 2, 2, 32), TextSpec(6, 20, 16, 1, 2, 32), embed_dim=8
    )
    prompts, merging = VitaCLIP(frames=4, text_prompts=1), ToMe(r=2)
    abstract_params(DualEncoder(spec, (merging, prompts), 4, cls_only=False))
    with pytest.raises(ValueError, match="attention for: name it behind tome in model.methods"):
        abstract_params(DualEncoder(spec, (prompts, merging), 4, cls_only=False))
