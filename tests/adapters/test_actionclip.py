"""ActionCLIP against golden numbers of the published modules, and what it refuses."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util
from golden_numbers import numbers
from golden_recognition import check_gradients
from random_leaves import random_params
from scipy.special import softmax

from vlt.adapters.actionclip import ActionCLIP, shift_of_quarters
from vlt.convert import convert, parse_settings
from vlt.convert.layouts.families import get_family
from vlt.convert.tables.table import to_leaves
from vlt.data.moving_shapes import write_tokenizer
from vlt.model_io.loading import LoadedModel, load_folder
from vlt.models.dual_encoder import DualEncoder
from vlt.models.spec import DualEncoderSpec, TextSpec, VisionSpec
from vlt.models.vit import normalize
from vlt.tasks.losses import same_class_divergence

HEADS, SHIFT = "actionclip/a_heads_frames5", "actionclip/b_shift_frames4"
SPEC = DualEncoderSpec(VisionSpec(16, 8, 16, 2, 2, 32), TextSpec(6, 30, 16, 1, 2, 32), embed_dim=64)


pytestmark = pytest.mark.usefixtures("highest_precision")


def tensors(shared: Path, name: str, head: str = "") -> dict[str, np.ndarray]:
    """The tensors of a file with one head, by published name."""
    found = safetensors.numpy.load_file(shared / f"golden/{name}.safetensors")
    head, fusion = f"fusion_{head}.", "fusion_model_state_dict."
    named = ((n.replace(head, fusion), x) for n, x in found.items())
    return {n: x for n, x in named if n.startswith(("model_state_dict.", fusion))}


def converted(shared: Path, folder: Path, name: str, head: str = "") -> LoadedModel:
    write_tokenizer(folder / "tokenizer")
    safetensors.numpy.save_file(tensors(shared, name, head), folder / "a.safetensors")
    settings = parse_settings(["visual.heads=1", "text.heads=1"])
    convert(folder / "a.safetensors", folder / "m", None, settings, f"{folder}/tokenizer")
    return load_folder(str(folder / "m"))


def loss_of(model: LoadedModel, golden: dict, texts: np.ndarray):
    """((loss, (logits, loss of each direction)), gradients) of a training step."""

    @jax.jit
    def run(params):
        def loss(params):
            def encode(kind, x):
                return model.module.apply(
                    {"params": params}, x, method=f"encode_{kind}", train=True
                )

            (video, _), (text, _) = encode("video", golden["video"]), encode("text", texts)
            logits = jnp.exp(params["logit_scale"]) * video @ text.T
            parts = same_class_divergence(logits, golden["labels"])
            return sum(parts) / 2, (logits, *parts)

        return jax.value_and_grad(loss, has_aux=True)(params)

    return run(model.params)


def check_step(model: LoadedModel, golden: dict) -> None:
    """Compares a training step with golden numbers; the texts' rows are template-major."""
    rows = golden["chosen_template"] * 3 + golden["labels"]
    (value, (logits, *parts)), gradients = loss_of(model, golden, golden["text_ids"][rows])
    np.testing.assert_allclose(logits, golden["logits_per_image"], atol=1e-4)
    for found, name in zip((*parts, value), ("loss_image", "loss_text", "loss"), strict=True):
        np.testing.assert_allclose(found, golden[name], rtol=1e-5, err_msg=name)
    golden |= {"grad_names": [*map(renamed, golden["grad_names"])]}
    check_gradients(golden, model.config.source["layout"], gradients)


@pytest.mark.slow
def test_a_training_step_with_a_transformer(shared, tmp_path):
    golden, model = numbers(shared, HEADS), converted(shared, tmp_path, HEADS, "Transf")
    options = {"sim_header": "Transf", "layers": 6, "max_frames": 16}
    assert model.config.methods == {"actionclip": options}
    check_step(model, {renamed(name): x for name, x in golden.items()})


def renamed(name: str) -> str:
    return name.replace("fusion_Transf.", "fusion_model_state_dict.")


@pytest.mark.parametrize("head", ["Transf", "LSTM", "Conv_1D", "Transf_cls"])
def test_heads_on_frames(shared, head):
    """Video embeddings, and probabilities averaged over templates."""
    golden, layout = numbers(shared, HEADS), get_family("actionclip")
    given = {n: x for n, x in tensors(shared, HEADS, head).items() if "fusion" in n}
    placed = to_leaves(layout.rules, given, layout.canonical, layout.dropped, layout.left_out)
    assert not placed.unexpected and not placed.wrong_shape
    leaves = traverse_util.unflatten_dict(placed.leaves, sep="/")["visual"]["actionclip"]
    leaves = jax.tree.map(np.float32, leaves)
    frames = golden["frame_features"]
    names = {False: f"{head}/video"}
    if head == "Conv_1D":
        names = {True: "Conv_1D/video", False: "Conv_1D/video_if_transposed"}
    for published, name in names.items():
        rows = {"Transf_cls": 5}.get(head, 16)
        layers = {"Transf_cls": 1}.get(head, 6)
        method = ActionCLIP(head, layers, rows, published=published)
        found = put_out(method, leaves, frames).mean(1)
        np.testing.assert_allclose(found, golden[name], atol=5e-5)
    texts = golden["text_features"].reshape(3, 3, -1)
    cosines = np.einsum("be,ace->abc", normalize(golden[f"{head}/video"]), normalize(texts))
    found = softmax(100 * cosines, -1).mean(0)
    np.testing.assert_allclose(found, golden[f"{head}/probs"], atol=1e-5)


def put_out(method: ActionCLIP, leaves: dict, frames: np.ndarray) -> np.ndarray:
    """The method's output on frames, added to them unless the head is `Transf_cls`."""

    class Tower:
        dtype = jnp.float32

    made = jax.jit(
        lambda leaves, x: method._module(Tower(), x.shape[-1], False).apply({"params": leaves}, x)
    )(leaves, frames)
    return made if method.sim_header == "Transf_cls" else frames + made


@pytest.mark.slow
def test_shifted_frames_and_a_training_step(shared, tmp_path):
    golden, model = numbers(shared, SHIFT), converted(shared, tmp_path, SHIFT)
    assert model.config.source["layout"] == "actionclip_shift"
    assert model.config.methods == {"actionclip": {"sim_header": "meanP", "shift": True}}
    whole = model.module.clone(cls_only=False)
    _, out = jax.jit(
        lambda p, x: whole.apply({"params": p}, x, method="encode_video", capture=True)
    )(model.params, golden["video"])
    for layer in range(3):
        expected = golden[f"block{layer}_tokens"]
        np.testing.assert_allclose(out[f"block_{layer}"].x, expected, atol=5e-5)
    np.testing.assert_allclose(out["frames"], golden["frame_features"], atol=5e-5)
    check_step(model, golden)


def test_a_convolution_starts_as_a_shift_of_quarters():
    kernel = shift_of_quarters(jax.random.key(0), (3, 8))
    x = np.random.default_rng(0).normal(size=(1, 4, 8)).astype(np.float32)
    found = put_out(ActionCLIP("Conv_1D"), {"kernel": kernel}, x) - x
    np.testing.assert_allclose(found[:, 1:, :2], x[:, :-1, :2], atol=1e-6)
    np.testing.assert_allclose(found[:, :, 2:6], x[:, :, 2:6], atol=1e-6)
    np.testing.assert_allclose(found[:, :-1, 6:], x[:, 1:, 6:], atol=1e-6)
    assert not found[:, 0, :2].any() and not found[:, -1, 6:].any()


@pytest.mark.slow
@pytest.mark.parametrize("head", ["meanP", "Transf", "LSTM", "Conv_1D", "Transf_cls", "shift"])
def test_order_of_frames(head):
    """Only mean pooling ignores it."""
    method = ActionCLIP("meanP", shift=True) if head == "shift" else ActionCLIP(head)
    model = DualEncoder(SPEC, (method,), frames=4)
    params = random_params(model)
    video = np.random.default_rng(0).normal(size=(2, 4, 16, 16, 3)).astype(np.float32)
    encode = jax.jit(lambda x: model.apply({"params": params}, x, method="encode_video")[0])
    difference = np.abs(encode(video) - encode(video[:, ::-1])).max()
    assert (difference < 1e-6) == (head == "meanP")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sim_header": "seqTransf"}, "unknown actionclip.sim_header: seqTransf"),
        ({"layers": 0}, "actionclip.layers must be >= 1, got 0"),
        ({"published": True}, "published=True with actionclip.sim_header='Transf'"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        ActionCLIP(**options)


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        ({"max_frames": 3}, {}, "4 frames, actionclip.max_frames is 3"),
        ({}, {"embed_dim": 48}, "splits the width of frame embeddings by 64, and 48"),
        ({"sim_header": "Transf_cls"}, {"embed_dim": 12}, "by 8, and 12 is not a multiple"),
    ],
)
def test_sizes_that_do_not_fit(options, changes, message):
    with pytest.raises(ValueError, match=message):
        ActionCLIP(**options).check(dataclasses.replace(SPEC, **changes), 4)
