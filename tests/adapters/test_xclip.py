"""X-CLIP against golden numbers of the published modules and transformers' implementation."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
from golden_numbers import numbers
from golden_recognition import check_gradients, converted
from helpers import NO_TORCH

import vlt
from vlt import export
from vlt.adapters import xclip
from vlt.adapters.btadapter import BTAdapter
from vlt.adapters.xclip import XCLIP
from vlt.configuration import apply_overrides, load_config
from vlt.convert import ConversionError, convert, reverse
from vlt.inspect import inspect_config
from vlt.model_io.build import abstract_params, init_params
from vlt.model_io.loading import build_for_shapes, load_folder
from vlt.models.dual_encoder import DualEncoder
from vlt.models.layers import LayerNorm
from vlt.models.sizes import SIZES
from vlt.models.spec import DualEncoderSpec, TextSpec, VisionSpec
from vlt.pytrees.paths import by_path
from vlt.training.rules import partition

NAME = "xclip/a_frames4"


pytestmark = pytest.mark.usefixtures("highest_precision")


@pytest.fixture(scope="module")
def golden(shared):
    return numbers(shared, NAME)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("xclip")


@pytest.fixture(scope="module")
def model(shared, folder):
    return converted(shared, NAME, folder)


def scored(module, video, ids):
    """Scores of every video with every class, and the outputs of both towers."""
    _, out = module.encode_video(video, capture=True)
    text = module.encode_text(ids)[1]
    return module.scores(module.video_parts(out), module.text_parts(text)), out, text


def test_options_and_frames_are_read_off_the_tensors(model):
    assert model.config.methods == {"xclip": {"mit_layers": 1, "prompt_layers": 2}}
    assert model.config.frames == 4 and model.config.preprocessing["mean"][0] == 0.485


@pytest.fixture(scope="module")
def ran(golden, model):
    """Losses, scores, modules' outputs and gradients, from one program."""

    def traced(module, _):
        kinds = (xclip.FrameTransformer, xclip.Prompts, xclip.Layer)
        return isinstance(module, kinds) or module.name in ("norm1", "message")

    @jax.jit
    def run(params, video, ids, labels, soft):
        def loss(params):
            (scores, *outs), state = model.module.apply(
                {"params": params},
                video,
                ids,
                method=scored,
                mutable=["intermediates"],
                capture_intermediates=traced,
            )
            logits = jnp.exp(params["logit_scale"]) * scores
            smooth = optax.smooth_labels(jax.nn.one_hot(labels, 5), 0.1)
            losses = [
                optax.softmax_cross_entropy(logits, targets).mean()
                for targets in (jax.nn.one_hot(labels, 5), smooth, soft)
            ]
            return losses[0], (losses, logits, outs, state["intermediates"])

        return jax.grad(loss, has_aux=True)(params)

    names = ("video", "text_ids", "labels", "soft_labels")
    return run(model.params, *(golden[name] for name in names))


def test_traces_and_logits(golden, model, ran):
    _, (_, logits, (out, text), traced) = ran
    at = {"atol": 5e-5}
    np.testing.assert_allclose(logits, golden["logits"], atol=1e-4)
    np.testing.assert_allclose(text["text_features"], golden["text_features"], **at)
    np.testing.assert_allclose(out["video_features"], golden["video_features"], **at)
    np.testing.assert_allclose(out["context"], golden["context"], **at)
    (frames,) = traced["visual"]["xclip_frames"]["__call__"]
    (blocks,) = traced["visual"]["xclip_frames"]["blocks_0"]["__call__"]
    np.testing.assert_allclose(frames - golden["frame_features"], golden["mit_blocks"], **at)
    np.testing.assert_allclose(blocks[:, 0], golden["mit_blocks"], **at)
    prompts = traced["xclip_prompts"]
    np.testing.assert_allclose(prompts["__call__"][0], golden["text_prompt"], **at)
    for layer in range(2):
        (found,) = prompts[f"blocks_{layer}"]["__call__"]
        np.testing.assert_allclose(found[:, 0], golden[f"prompt_layer{layer}"], **at)
        np.testing.assert_allclose(out[f"block_{layer}"].x, golden[f"block{layer}_tokens"], **at)
        block = traced["visual"][f"blocks_{layer}"]
        (message,) = block["xclip"]["message"]["__call__"]
        np.testing.assert_allclose(message, golden[f"block{layer}_message_fc"], **at)
        # Here the message stands after the class token, not at the end.
        read = golden[f"block{layer}_attention_input"]
        read = np.concatenate([read[:, :, :1], read[:, :, -1:], read[:, :, 1:-1]], axis=2)
        norm = model.params["visual"][f"blocks_{layer}"]["norm1"]
        expected = LayerNorm(epsilon=1e-5).apply({"params": norm}, read)
        np.testing.assert_allclose(block["norm1"]["__call__"][0], expected, **at)


def test_losses_and_gradients(golden, ran):
    """With all leaves trained; and as published, with texts embedded once by a frozen tower."""
    gradients, (losses, *_) = ran
    wanted = [golden[name] for name in ("loss_ce", "loss_smooth0.1", "loss_soft")]
    np.testing.assert_allclose(losses, wanted, rtol=1e-5)
    for prefix in ("", "published_"):
        check_gradients(golden, "xclip", gradients, prefix)


def test_a_published_file_comes_back_bit_for_bit(shared, folder, model):
    reverse(folder / "model", folder / "back.safetensors")
    first, back = (
        safetensors.numpy.load_file(path)
        for path in (shared / f"golden/{NAME}.safetensors", folder / "back.safetensors")
    )
    assert first.keys() == back.keys()
    for name, tensor in first.items():
        np.testing.assert_array_equal(back[name], tensor, err_msg=name)


@pytest.mark.slow
def test_transformers_folders_are_read(folder, model):
    """The folder holds a model that was read under other names."""
    reverse(folder / "model", folder / "hf", "xclip_hf")
    convert(folder / "hf", folder / "again")
    again = load_folder(str(folder / "again"))
    assert again.config.methods == model.config.methods and again.config.frames == 4
    assert again.config.preprocessing == model.config.preprocessing
    assert again.config.spec == model.config.spec
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)


@pytest.mark.slow
def test_transformers_computes_the_same(golden, folder, model):
    """From the folder that is written here."""
    torch = pytest.importorskip("torch", reason=NO_TORCH)
    transformers = pytest.importorskip("transformers")
    reverse(folder / "model", folder / "theirs", "xclip_hf")
    theirs, told = transformers.XCLIPModel.from_pretrained(
        folder / "theirs", output_loading_info=True
    )
    assert not any(told.values()), told
    processor = transformers.AutoImageProcessor.from_pretrained(folder / "theirs")
    assert [*processor.image_mean] == model.config.preprocessing["mean"]
    with torch.no_grad():
        out = theirs.eval()(
            pixel_values=torch.tensor(golden["video"].transpose(0, 1, 4, 2, 3)),
            input_ids=torch.tensor(golden["text_ids"]),
            attention_mask=torch.ones_like(torch.tensor(golden["text_ids"])),
        )
    np.testing.assert_allclose(out.logits_per_video, golden["logits"], atol=1e-4)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("drop", "message"),
    [
        ("mit.resblocks.0.ln_1.bias", r"missing: mit.resblocks.0.ln_1.bias"),
        ("visual.transformer.resblocks.1.message_fc.weight", "missing: visual.*message_fc.weight"),
        ("prompts_visual_proj", "missing: prompts_visual_proj"),
    ],
)
def test_a_tensor_that_is_missing_is_named(shared, folder, tmp_path, drop, message):
    tensors = safetensors.numpy.load_file(shared / f"golden/{NAME}.safetensors")
    del tensors[drop]
    safetensors.numpy.save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(ConversionError, match=message):
        convert(tmp_path / "x.safetensors", tmp_path / "m", tokenizer=str(folder / "tokenizer"))


def test_other_parts_than_the_published_are_refused(folder, model, tmp_path):
    reverse(folder / "model", tmp_path / "hf", "xclip_hf")
    path = tmp_path / "hf" / "config.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps(fields | {"prompt_num_attention_heads": 2}))
    with pytest.raises(ConversionError, match="prompt_num_attention_heads is 2; with projection_d"):
        convert(tmp_path / "hf", tmp_path / "model")


@pytest.mark.slow
def test_where_it_starts():
    """P has deviation 1; queries, keys and values are drawn like torch's joint matrix."""
    spec = DualEncoderSpec(
        VisionSpec(16, 8, 64, 1, 1, 128), TextSpec(6, 20, 16, 1, 2, 32), embed_dim=64
    )
    params = jax.jit(lambda key: init_params(DualEncoder(spec, (XCLIP(),), 8), key))(
        jax.random.key(0)
    )
    visual = params["visual"]
    attention = visual["blocks_0"]["xclip"]["attention"]
    deviations = {
        1.0: visual["xclip_context"]["projection"]["kernel"],
        128**-0.5: attention["query"]["kernel"],
        192**-0.5: attention["out"]["kernel"],
        0.02: visual["xclip_frames"]["blocks_0"]["attention"]["out"]["kernel"],
    }
    for deviation, kernel in deviations.items():
        np.testing.assert_allclose(kernel.std(), deviation, rtol=0.06)
    np.testing.assert_array_equal(params["xclip_prompts"]["alpha"], np.full(64, 0.1, np.float32))
    assert visual["xclip_frames"]["position_embedding"].shape == (8, 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mit_layers": 0}, "xclip.mit_layers must be >= 1, got 0"),
        ({"prompt_layers": -1}, "xclip.prompt_layers must be >= 1, got -1"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        XCLIP(**options)


def test_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match="heads of 64 channels, and this model's have 200"):
        XCLIP().check(dataclasses.replace(SIZES["clip_b16"], embed_dim=200), 8)


def test_another_branch_leaves_it_no_patches():
    spec = SIZES["tiny_clip"]
    spec = dataclasses.replace(spec, embed_dim=64)
    branch = BTAdapter(depth=2)
    abstract_params(DualEncoder(spec, (XCLIP(), branch), 8))
    with pytest.raises(ValueError, match="name xclip before it in model.methods"):
        abstract_params(DualEncoder(spec, (branch, XCLIP()), 8))


def test_leaves_of_the_config_are_as_many_as_published():
    """MSTA's Table 5 says 132M."""
    config = load_config("configs/msta.py:full_k400_xclip")
    params = abstract_params(build_for_shapes(config["model"]))
    trained = by_path(partition(params, config["rules"])[0])
    for pattern, count in (
        (r".*", 131_501_056),
        (r"visual/blocks_\d+/xclip/.*", 35_453_952),
        (r"visual/xclip_frames/.*", 3_156_480),
        (r"xclip_prompts/.*", 6_303_232),
        (r"visual/xclip_context/.*", 394_752),
    ):
        assert sum(x.size for path, x in trained.items() if re.fullmatch(pattern, path)) == count


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "frames", "trained", "products", "norms"),
    [
        ("clip_b16", 8, 131_501_056, 141.72, 0.16),
        ("clip_l14", 8, 452_023_296, 651.79, 0.53),
        ("clip_b32", 16, None, 71.95, 0.08),
    ],
)
def test_counts_of_sizes(size, frames, trained, products, norms):
    config = load_config("configs/msta.py:full_k400_xclip")
    sizes = {"model.size": size, "model.frames": frames, "model.checkpoint": "absent"}
    found = inspect_config(apply_overrides(config, sizes))
    assert trained in (None, found["trainable_params"])
    kinds = found["video_gmacs_by_kind"]
    assert round(kinds["linear"] + kinds["product"], 2) == products
    assert round(kinds["layer_norm"], 2) == norms and found["pair_gmacs"] > 0


@pytest.mark.slow
def test_a_folder_scores_videos_with_texts(golden, model, folder, tmp_path):
    """vlt.load scores as the published code does; exporting each tower alone is refused."""
    loaded = vlt.load(str(folder / "model"))
    frames = golden["video"].astype(np.float32)
    scores = loaded.scores(frames, golden["text_ids"])
    np.testing.assert_allclose(golden["scale"] * scores, golden["logits"], atol=1e-4)
    with pytest.raises(ValueError, match="xclip reads videos and texts together, and these"):
        export._write_stablehlo(model, tmp_path)
    assert not [*tmp_path.iterdir()]
