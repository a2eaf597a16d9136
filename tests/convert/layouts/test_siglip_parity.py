"""SigLIP 2 computes what transformers' and its authors' code does: float32, block by block."""

import jax
import numpy as np
import pytest
import siglip_files
from flax import traverse_util
from PIL import Image

from vlt.convert import convert, parse_settings
from vlt.convert.layouts.siglip import SIGLIP_HF
from vlt.convert.tables.table import to_tensors
from vlt.data.video.transform import apply_transform
from vlt.model_io.build import make_model
from vlt.model_io.folder import read_model_folder
from vlt.tasks import losses

TRACE, POOLED, UNIT, LOSS, GRADIENT, PIXELS = 1e-4, 5e-5, 5e-6, 1e-5, 1e-3, 1e-6


def close(ours, theirs, atol, name=""):
    ours = np.asarray(ours).reshape(theirs.shape)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol, err_msg=name)


@pytest.fixture(scope="module")
def golden(shared):
    return siglip_files.numbers(shared)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return str(siglip_files.bytes_and_letters(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def ours(shared, golden, tokenizer, tmp_path_factory):
    """Everything from one program, with the weights converted from the authors' .npz."""
    folder = tmp_path_factory.mktemp("siglip") / "model"
    convert(siglip_files.npz(shared), folder, tokenizer=tokenizer)
    config, params = read_model_folder(folder)
    model = make_model(config.spec, {})
    averaging = model.clone(frame_norm=config.frame_norm)

    def loss(params):
        inputs = golden["image"], golden["text_ids"]
        out, inner = model.apply(
            {"params": params},
            *inputs,
            capture=True,
            capture_intermediates=lambda module, _: module.name == "cross_attention",
            mutable=["intermediates"],
        )
        scale, bias = jax.numpy.exp(params["logit_scale"]), params["logit_bias"]
        value = losses.sigmoid(out["video"], out["text"], scale, bias)
        logits = scale * out["video"] @ out["text"].T + bias
        attention = inner["intermediates"]["visual"]["pooler"]["cross_attention"]["__call__"][0][0]
        return value, {**out, "logits": logits, "pooled_attention": attention}

    @jax.jit
    def run(params):
        (value, out), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        video = averaging.apply({"params": params}, golden["video"], method="encode_video")[1]
        return out | {"loss": value, "gradient": gradient, "video_out": video}

    with jax.default_matmul_precision("highest"):
        return jax.device_get(run(params)) | {"params": params, "spec": config.spec}


def test_towers_block_by_block(golden, ours):
    seen, read = ours["visual_out"], ours["text_out"]
    close(seen["stem"].x, golden["trace/vision_stem"], TRACE)
    close(read["stem"].x, golden["trace/text_stem"], TRACE)
    for tower, out, layers in (("vision", seen, 3), ("text", read, 2)):
        for layer in range(layers):
            theirs = golden[f"trace/{tower}_block{layer}"]
            close(out[f"block_{layer}"].x, theirs, TRACE, f"{tower} {layer}")
    close(ours["pooled_attention"], golden["trace/map_attention_out"], TRACE)
    close(seen["video_features"], golden["image_pooled"], POOLED)
    close(read["text_features"], golden["text_pooled"], POOLED)
    close(ours["video"], golden["image_embed"], UNIT)
    close(ours["text"], golden["text_embed"], UNIT)
    close(ours["logits"], golden["logits_per_image"], 10 * UNIT)
    close(ours["video_out"]["video_features"], golden["video_mean_unit"], UNIT)
    masked = golden["text_pooled_if_padding_masked"] - np.asarray(read["text_features"])
    assert np.abs(masked).max() > 1, "padding is read"


def test_the_sigmoid_loss_and_its_gradients(golden, ours):
    np.testing.assert_allclose(ours["loss"], golden["loss"], rtol=LOSS)
    gradients, left = to_tensors(
        SIGLIP_HF.rules, traverse_util.flatten_dict(ours["gradient"], sep="/")
    )
    assert not left
    for name, gradient in gradients.items():
        norm = golden[f"gradnorm/{name}"]
        close(np.linalg.norm(gradient), norm, GRADIENT * max(norm, 1e-2), name)
        if f"grad/{name}" in golden:
            whole = golden[f"grad/{name}"]
            close(gradient, whole, GRADIENT * max(np.abs(whole).max(), 1e-3), name)


@pytest.mark.slow
def test_folders_of_transformers_hold_the_same_and_other_sizes(shared, golden, ours, tmp_path):
    source = siglip_files.folder(shared, tmp_path / "hf")
    convert(source, tmp_path / "model", settings=parse_settings(["visual.image_size=84"]))
    config, params = read_model_folder(tmp_path / "model")
    close(params["visual"]["position_embedding"], golden["pos_resized_bicubic"], 1e-5)
    mine = traverse_util.flatten_dict(params, sep="/")
    for path, leaf in traverse_util.flatten_dict(ours["params"], sep="/").items():
        if path != "visual/position_embedding":
            np.testing.assert_array_equal(mine[path], leaf, err_msg=path)
    model = make_model(config.spec, {})
    with jax.default_matmul_precision("highest"):
        pictures = golden["image_resized_input"]
        out = model.apply({"params": params}, pictures, method="encode_video")[1]
    close(out["video_features"], golden["image_resized_pooled_bicubic"], POOLED)


@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
def test_pixels(shared, name):
    golden = np.load(shared / "golden/siglip2/preprocess.npz")
    steps = {"resize": (56, 56), "interpolation": name}
    pixels = apply_transform(steps, golden["image"][None], seed=0)[0]
    close(np.moveaxis((pixels / 255 - 0.5) / 0.5, -1, 0), golden[f"hf_{name}"], PIXELS)
    assert Image.fromarray(pixels).size == (56, 56)
