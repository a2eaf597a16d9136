"""MV-Adapter against golden numbers of the published modules, and what it refuses."""

import dataclasses
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from golden_numbers import numbers
from golden_prompts import close
from golden_recognition import check_gradients, converted

from vlt.adapters.mv_adapter import Down, MVAdapter
from vlt.convert import ConversionError, convert, reverse
from vlt.merging.tempme import TempMe
from vlt.merging.tome import ToMe
from vlt.model_io.build import abstract_params, make_model
from vlt.model_io.folder import read_model_config, write_model_folder
from vlt.model_io.loading import load_folder
from vlt.model_io.view import View
from vlt.models.dual_encoder import DualEncoder
from vlt.models.sizes import SIZES
from vlt.tasks.losses import contrastive

NAME = "mv_adapter/msrvtt"
PROMPT = "clip.prompt.0"


pytestmark = pytest.mark.usefixtures("highest_precision")


@pytest.fixture(scope="module")
def golden(shared):
    found = numbers(shared, NAME)
    return found | {"text_ids": found["text_ids"].astype(np.int32)}


@pytest.fixture(scope="module")
def folder(shared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mv_adapter")
    converted(shared, NAME, folder)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return load_folder(str(folder / "model"))


@pytest.fixture(scope="module")
def outcome(golden, model):
    """The loss, outputs with every block's tokens, the adapters' outputs, and gradients."""

    def loss(params):
        out, state = model.module.apply(
            {"params": params},
            golden["video"],
            golden["text_ids"],
            capture=True,
            mutable=["intermediates"],
            capture_intermediates=lambda module, _: module.name == "mv_adapter",
        )
        scale = jnp.exp(params["logit_scale"])
        return contrastive(out["video"], out["text"], scale) / 2, (out, state["intermediates"])

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(model.params)


@pytest.mark.slow
def test_options_are_read_off_the_tensors(folder, model):
    assert model.config.methods == {
        "mv_adapter": {
            "bottleneck": 16,
            "gate": 16,
            "frames": 4,
            "words": 14,
            "tie": "out",
            "tied_layers": [1, 2],
            "factor": 8,
        }
    }
    assert (model.config.frames, model.config.frame_norm) == (4, True)
    assert read_model_config(folder / "model").view == View("fps1_linspace", 4)


def test_trace(golden, outcome):
    (_, (out, made)), _ = outcome
    visual, text = out["visual_out"], out["text_out"]
    for layer in range(3):
        adapted = {
            tower: 0.1 * made[tower][f"blocks_{layer}"]["mv_adapter"]["__call__"][0]
            for tower in ("visual", "text")
        }
        for kind, x in (("adapter", adapted["visual"]), ("block", visual[f"block_{layer}"].x)):
            close(x[:, :, 0], golden[f"visual_{kind}{layer}_cls"], 2e-5)
            close(x[:, :, 1:].mean(2), golden[f"visual_{kind}{layer}_patch_mean"], 2e-5)
        close(adapted["text"][:, 0], golden[f"text_adapter{layer}"], 5e-5)
        close(text[f"block_{layer}"].x[:, 0], golden[f"text_block{layer}"], 5e-5)
    unit = golden["frame_embeddings"]
    close(visual["frames"], unit / np.linalg.norm(unit, axis=-1, keepdims=True), 2e-5)
    close(text["text_features"], golden["text_embedding"], 5e-5)
    close(jnp.exp(out["logit_scale"]) * out["text"] @ out["video"].T, golden["logits"], 2e-4)


def test_loss_and_gradients(golden, outcome):
    (value, _), gradients = outcome
    close(value, golden["loss"], 2e-4)
    names = [str(name) for name in golden["grad_names"]]
    assert PROMPT in names
    check_gradients(golden, "mv_adapter", gradients)


@pytest.mark.slow
def test_it_sees_the_order_of_frames_by_its_positions_alone(golden, model):
    encode = jax.jit(lambda p, x: model.module.apply({"params": p}, x, method="encode_video")[0])

    def gap(params):
        forth, back = (encode(params, golden["video"][:, ::step]) for step in (1, -1))
        return np.abs(forth - back).max()

    def without(path, leaf):
        names = jax.tree_util.keystr(path)
        if "visual" in names and "mv_adapter" in names and "position" in names:
            # Frames share positions; the learned token's, class tokens' and means' still differ.
            return np.concatenate([leaf[:1], np.repeat(leaf[[1, 5]], 4, axis=0)])
        return leaf

    assert gap(model.params) > 1e-3
    assert gap(jax.tree_util.tree_map_with_path(without, model.params)) < 1e-6


@pytest.mark.slow
def test_it_starts_as_the_clip():
    """W_u and its bias start at zero."""
    module = DualEncoder(SIZES["tiny_clip"], (MVAdapter(tied_layers=(0, 1), frames=2, words=4),), 2)
    bare = module.clone(methods=())
    video = np.random.default_rng(0).normal(size=(1, 2, 32, 32, 3)).astype(np.float32)
    ids = np.array([[1, 5, 42, 0]], np.int32)

    @jax.jit
    def run():
        params = module.init(jax.random.key(0), video, ids)["params"]
        return [m.apply({"params": params}, video, ids) for m in (module, bare)]

    ours, plain = run()
    for name in ("video", "text"):
        close(ours[name], plain[name], 1e-6)


def same_bits(before, after):
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        np.testing.assert_array_equal(tensor, before[name], strict=True)


def test_there_and_back(shared, folder, model):
    before = safetensors.numpy.load_file(shared / f"golden/{NAME}.safetensors")
    reverse(folder / "model", folder / "back.safetensors", overwrite=True)
    same_bits(before, safetensors.numpy.load_file(folder / "back.safetensors"))
    # Without a record of the original names
    bare = dataclasses.replace(model.config, source={})
    write_model_folder(folder / "bare", bare, model.params, Path(f"{folder}/model/tokenizer"))
    reverse(folder / "bare", folder / "anew.safetensors", "mv_adapter", overwrite=True)
    same_bits(before, safetensors.numpy.load_file(folder / "anew.safetensors"))


def test_files_that_do_not_fit(shared, folder, tmp_path):
    tensors = safetensors.numpy.load_file(shared / f"golden/{NAME}.safetensors")
    path = tmp_path / "some.safetensors"

    def refused(tensors, message):
        safetensors.numpy.save_file(tensors, path)
        with pytest.raises(ConversionError, match=message):
            convert(path, tmp_path / "model", tokenizer=f"{folder}/tokenizer")

    other = {"clip.transformer.resblocks.2.mlp.adapter.shared_factor": np.ones(8, np.float32)}
    refused(tensors | other, "resblocks.2.mlp.adapter.shared_factor is not the same as clip.prompt")
    adapter = "clip.visual.transformer.resblocks.1.mlp.adapter"
    another = {f"{adapter}.conv_rf_w.a.weight": np.ones((4, 8), np.float32)}
    refused(
        tensors | another, r"unexpected: clip\.visual.*resblocks\.1\.mlp\.adapter\.conv_rf_w\.a"
    )
    gone = f"{adapter}.cc"
    refused({name: x for name, x in tensors.items() if name != gone}, f"missing: {gone} ")


@pytest.mark.slow
def test_a_tie_of_what_goes_in(shared, folder, tmp_path):
    """`tie="in"`, as published for LSMDC, MSVD and ActivityNet."""
    tensors = safetensors.numpy.load_file(shared / f"golden/{NAME}.safetensors")
    rng = np.random.default_rng(0)
    for name, x in tensors.items():
        if ".md_proj." in name:
            shape = (64, *x.shape[1:])
            tensors[name] = rng.normal(size=shape).astype(np.float32)
    safetensors.numpy.save_file(tensors, tmp_path / "in.safetensors")
    convert(tmp_path / "in.safetensors", tmp_path / "model", tokenizer=f"{folder}/tokenizer")
    model = load_folder(str(tmp_path / "model"))
    assert model.config.methods["mv_adapter"]["tie"] == "in"
    down = model.params["visual"]["blocks_1"]["mv_adapter"]["down"]
    scales = down["tie"]["kernel"].T @ tensors[PROMPT] + down["tie"]["bias"]
    x = rng.normal(size=(2, 64)).astype(np.float32)
    (method,) = model.module.methods

    layer = Down(16, method.tie, nn.initializers.zeros, jnp.float32)
    found = layer.apply({"params": down}, x, tensors[PROMPT])
    close(found, (scales * x) @ down["kernel"] + down["bias"], 1e-4)


@pytest.mark.parametrize(
    ("options", "frames", "message"),
    [
        ({}, 8, "8 frames, but mv_adapter's positions are for 12 .mv_adapter.frames.: use that"),
        ({"tied_layers": (11, 12)}, 12, "tied_layers in the visual tower must be blocks from 0 to"),
        ({"heads": 3}, 12, "mv_adapter.heads=3 must divide mv_adapter.bottleneck=64"),
        ({"tie": "both"}, 12, "unknown mv_adapter.tie: both; choose from out, in, none"),
        ({"words": 0}, 12, "mv_adapter.words must be >= 1, got 0"),
    ],
)
def test_sizes_that_do_not_fit(options, frames, message):
    with pytest.raises(ValueError, match=message):
        make_model(SIZES["clip_b32"], {"mv_adapter": options}, frames)


def test_longer_texts_and_merged_frames_are_a_sentence(model):
    params = jax.eval_shape(lambda: model.params)

    def run(method, *shape):
        dtype = np.float32 if method == "encode_video" else np.int32
        x = jax.ShapeDtypeStruct(shape, dtype)
        return jax.eval_shape(
            lambda p, x: model.module.apply({"params": p}, x, method=method), params, x
        )

    with pytest.raises(ValueError, match="15 tokens of a text, but mv_adapter's positions are for"):
        run("encode_text", 1, 15)
    run("encode_text", 1, 9)
    with pytest.raises(ValueError, match="3 frames, but mv_adapter's positions are for 4"):
        run("encode_video", 1, 3, 24, 24, 3)


@pytest.mark.slow
@pytest.mark.parametrize("merging", [ToMe(2), TempMe((1,), (2,), r=1)])
def test_beside_what_merges(merging):
    """Videos whose tokens are merged or whose clips are joined are embedded; shapes alone."""
    method = MVAdapter(frames=4, tie="none", towers=("visual",))
    model = DualEncoder(SIZES["tiny_clip"], (merging, method), 4)
    params = abstract_params(model)
    video = jax.ShapeDtypeStruct((1, 4, 32, 32, 3), jnp.float32)
    out, _ = jax.eval_shape(
        lambda p, v: model.apply({"params": p}, v, method="encode_video"), params, video
    )
    assert out.shape == (1, 64)
