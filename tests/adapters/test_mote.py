"""MoTE against golden numbers of the published modules, and its form with one MLP."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from golden_numbers import numbers
from golden_recognition import base_clip, check_gradients, converted
from optax import softmax_cross_entropy_with_integer_labels

from vlt.adapters import mote
from vlt.adapters.mote import MoTE, draw_experts, draw_merging
from vlt.export import merged_model
from vlt.models.spec import DualEncoderSpec, TextSpec, VisionSpec
from vlt.models.vit import normalize

NAME = "mote/a_frames5"
SPEC = DualEncoderSpec(
    VisionSpec(24, 8, 64, 2, 1, 256), TextSpec(16, 64, 64, 1, 1, 256), embed_dim=64
)


pytestmark = pytest.mark.usefixtures("highest_precision")


@pytest.fixture(scope="module")
def golden(shared):
    return numbers(shared, NAME)


@pytest.fixture(scope="module")
def model(shared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mote")
    return converted(shared, NAME, folder, f"base={base_clip(SPEC, folder)}")


def test_options_are_read_off_the_tensors(model):
    assert model.config.methods == {
        "mote": {"layers": 2, "experts": 4, "max_frames": 16, "classes": 7}
    }


def test_evaluation(golden, model):
    """Frames with H unweighted; scores with H weighted, for generic and for training classes."""

    @jax.jit
    def run(params, video, generic, specific):
        def scores(classes, out):
            parts = model.module.video_parts(out), {"features": classes}
            return model.module.apply({"params": params}, *parts, method="scores")

        _, out = model.module.apply({"params": params}, video, method="encode_video")
        return out, scores(generic, out), scores(specific, out)

    inputs = (golden[name] for name in ("video", "generic_classes", "specific_classes"))
    out, generic, specific = run(model.params, *inputs)
    frames = out["raw_frames"] - out["mote_change"]
    np.testing.assert_allclose(frames, golden["frame_features"], atol=5e-5)
    np.testing.assert_allclose(out["raw_frames"], golden["eval/frames_unmodulated"], atol=5e-5)
    # The classes are unit vectors only to half precision, and are normalised before comparison.
    np.testing.assert_allclose(generic, golden["eval/logits"], atol=5e-5)
    np.testing.assert_allclose(specific, golden["eval/logits_same_classes"], atol=5e-5)
    (method,) = model.module.methods
    known = model.params["mote"]["classes"]
    similarity = method.similarity(frames, golden["generic_classes"], known)
    np.testing.assert_allclose(similarity, golden["eval/similarity"], atol=1e-6)


@pytest.mark.slow
def test_a_training_step(golden, model, monkeypatch):
    experts = jax.nn.one_hot(golden["train/expert"], 4)
    shares = jnp.stack([golden[f"train/merge_weights_layer{i}"] for i in range(2)])
    monkeypatch.setattr(mote, "draw_experts", lambda *_: experts)
    monkeypatch.setattr(mote, "draw_merging", lambda *_: shares)
    expected = jax.nn.softmax(jnp.arange(1.0, 5) / golden["train/temperature"][:, None])
    np.testing.assert_allclose(shares, expected, atol=1e-6)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss(params):
        rngs = {"dropout": jax.random.key(0)}
        video, out = model.module.apply(
            {"params": params}, golden["video"], train=True, rngs=rngs, method="encode_video"
        )
        classes, labels = normalize(golden["specific_classes"]), golden["labels"]
        found = video @ classes.T, normalize(out["mote_merged"].mean(1)) @ classes.T
        scale, cross = jnp.exp(params["logit_scale"]), softmax_cross_entropy_with_integer_labels
        one, several = (cross(scale * cosines, labels).mean() for cosines in found)
        distance = out["mote_distance"].mean()
        return one + 0.5 * several + 0.1 * distance, (*found, one, several, distance)

    (value, terms), gradients = loss(model.params)
    np.testing.assert_allclose(terms[0], golden["train/logits_expert"], atol=1e-5)
    np.testing.assert_allclose(terms[1], golden["train/logits_merged"], atol=1e-5)
    for found, name in zip(terms[2:], ("loss_expert", "loss_merged", "mse"), strict=True):
        np.testing.assert_allclose(found, golden[f"train/{name}"], rtol=1e-5)
    np.testing.assert_allclose(value, golden["train/loss"], rtol=1e-5)
    del gradients["text"]
    check_gradients(golden, "mote", gradients)


def test_experts_are_drawn_as_published():
    draw = jax.jit(draw_experts, static_argnums=(1, 2))(jax.random.key(0), 20_000, 4)
    np.testing.assert_array_equal(draw.sum(-1), 1)
    np.testing.assert_allclose(draw.mean(0), [0.032, 0.087, 0.237, 0.644], atol=0.01)
    shares = np.unique(np.round(draw_merging(jax.random.key(0), 2000, 4), 4), axis=0)
    taus = [sign * 0.6 * 2**k for k in range(5) for sign in (1, -1)]
    every = [[0.25] * 4, *(jax.nn.softmax(np.arange(1, 5) / tau) for tau in taus)]
    np.testing.assert_allclose(shares, sorted(map(list, np.round(every, 4))), atol=2e-4)


def test_folded_it_has_one_mlp_in_a_block(golden, model):
    folded = merged_model(model)
    assert folded.config.methods["mote"]["experts"] == 1
    leaves = traverse_util.flatten_dict(folded.params, sep="/")
    mlps = {path for path in leaves if path.startswith("visual/mote/blocks_1/mlp/")}
    assert {path.split("/", 4)[4] for path in mlps} == {
        "fc1/kernel", "fc1/bias", "fc2/kernel", "fc2/bias",
    }  # fmt: skip
    encode = jax.jit(
        lambda p, x: folded.module.apply({"params": p}, x, method="encode_video")[1]["raw_frames"]
    )
    found = encode(folded.params, golden["video"])
    np.testing.assert_allclose(found, golden["eval/frames_unmodulated"], atol=5e-5)


@pytest.mark.parametrize(
    ("options", "spec", "frames", "message"),
    [
        ({}, SPEC, 78, "78 frames, mote.max_frames is 77"),
        (
            {},
            dataclasses.replace(SPEC, embed_dim=48),
            8,
            "mote.heads can't be width/64: .* width 48",
        ),
    ],
)
def test_sizes_that_do_not_fit(options, spec, frames, message):
    with pytest.raises(ValueError, match=message):
        MoTE(**options).check(spec, frames)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"experts": 0}, "experts must be >= 1, got 0"), ({"heads": -1}, "heads must be >= 0")],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        MoTE(**options)
