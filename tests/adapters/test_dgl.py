"""DGL against golden numbers of the published modules, what it folds to, and what it refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from golden_numbers import numbers
from golden_prompts import close
from golden_recognition import check_gradients, converted

from vlt.adapters.dgl import DGL
from vlt.convert import ConversionError, convert, reverse
from vlt.data.moving_shapes import write_tokenizer
from vlt.export import merged_model
from vlt.model_io.build import abstract_params, make_model
from vlt.model_io.loading import load_folder
from vlt.models.sizes import SIZES
from vlt.tasks.losses import contrastive

SMALL = SIZES["tiny_clip"]


pytestmark = pytest.mark.usefixtures("highest_precision")


@pytest.fixture(
    scope="module", params=["linear", pytest.param("transformer", marks=pytest.mark.slow)]
)
def latent(request):
    return request.param


@pytest.fixture(scope="module")
def golden(shared, latent):
    found = numbers(shared, f"dgl/{latent}")
    return found | {"text_ids": found["text_ids"].astype(np.int32)}


@pytest.fixture(scope="module")
def folder(shared, latent, tmp_path_factory):
    folder = tmp_path_factory.mktemp(latent)
    converted(shared, f"dgl/{latent}", folder)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return load_folder(str(folder / "model"))


@pytest.fixture(scope="module")
def outcome(golden, model):
    """The loss, outputs with every block's tokens, and gradients, from one program."""
    whole = model.module.clone(cls_only=False)

    def loss(params):
        out = whole.apply({"params": params}, golden["video"], golden["text_ids"], capture=True)
        scale = jnp.exp(params["logit_scale"])
        return contrastive(out["video"], out["text"], scale) / 2, out

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(model.params)


def test_options_are_read_off_the_tensors(golden, model, latent):
    counts = {"global_tokens": 4, "tokens": 4}
    frames = 3 if latent == "transformer" else 0
    assert model.config.methods == {"dgl": {"latent": latent, "frames": frames} | counts}
    assert model.config.frames == (frames or None)
    assert not model.config.frame_norm


def test_trace(golden, outcome, latent):
    (_, out), _ = outcome
    visual, text = out["visual_out"], out["text_out"]
    frames = golden["video"].shape[1]
    for layer in range(2):
        x = np.asarray(visual[f"block_{layer}"].x[:, 0])
        parts = np.split(x, np.cumsum([4, frames, 4 * frames]), axis=1)
        local, patches = (p.reshape(len(x), -1, frames, x.shape[-1]) for p in parts[2:])
        close(parts[0], golden[f"visual_block{layer}_global"], 2e-5)
        close(parts[1], golden[f"visual_block{layer}_cls"], 2e-5)
        close(local.swapaxes(1, 2), golden[f"visual_block{layer}_local_prompts"], 2e-5)
        close(patches.mean(1), golden[f"visual_block{layer}_patch_mean"], 2e-5)
        close(text[f"block_{layer}"].x[:, 0], golden[f"text_block{layer}"][:, :20], 5e-5)
    close(visual["video_features"], golden["video_embedding"], 2e-5)
    close(text["text_features"], golden["text_embedding"], 5e-5)
    logits = jnp.exp(out["logit_scale"]) * out["text"] @ out["video"].T
    close(logits, golden["logits"], 2e-4)


def test_loss_and_gradients(golden, outcome, latent):
    """Whatever stands after the last word has no gradient."""
    (value, _), gradients = outcome
    close(value, golden["loss"], 2e-4)
    names = dict(zip(golden["grad_names"], golden["grad_norms"], strict=True))
    live = {name: norm for name, norm in names.items() if norm}
    assert len(names) - len(live) == (2 if latent == "linear" else 0)
    check_gradients(
        golden | {"grad_names": [*live], "grad_norms": [*live.values()]}, "dgl", gradients
    )
    if latent == "linear":
        for leaf in gradients["shared_DGL"]["postfix"].values():
            assert not leaf.any()


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "output",
    [
        "average_global_prompt_and_frame_cls_token",
        "average_global_prompt",
        "average_frame_cls_token",
        "global_prompt0",
    ],
)
def test_outputs_with_what_is_read_alone(golden, model, output):
    (method,) = model.module.methods
    module = model.module.clone(methods=(dataclasses.replace(method, output=output),))

    def encode(params, video):
        return module.apply({"params": params}, video, capture=True, method="encode_video")[1]

    out = jax.jit(encode)(model.params, golden["video"])
    close(out["video_features"], golden[f"video_embedding_{output}"], 2e-5)
    last = out["block_1"]
    assert last.x.shape[2] == last.cls


@pytest.mark.parametrize("latent", ["linear", "transformer"], indirect=True)
def test_latents_fold_to_tables(golden, model, latent):
    """The tables are the published code's, and give the same embeddings at no cost."""
    folded = merged_model(model)
    tables = folded.params["shared_DGL"]
    visual = tables["visual"].reshape(2, -1, 64)
    close(visual, golden["visual_prompts"], 2e-5)
    close(tables["text"][:, 0], golden["text_prompts"][:, :4], 2e-5)
    assert tables.keys() == {"visual", "text"}
    assert folded.config.methods["dgl"]["latent"] == "table"
    assert folded.module.methods == (model.module.methods[0].folded,)
    for name in ("video", "text"):
        inputs = golden["text_ids" if name == "text" else name]
        encode = jax.jit(
            lambda p, x, name=name: folded.module.apply({"params": p}, x, method=f"encode_{name}")
        )
        found = encode(folded.params, inputs)[1][f"{name}_features"]
        close(found, golden[f"{name}_embedding"], 2e-5)
    assert merged_model(folded).params["shared_DGL"] is tables


def test_order_of_frames(golden, model, latent):
    """In a linear latent, all frames have the same prompts, and nothing else tells them apart."""
    encode = jax.jit(lambda p, x: model.module.apply({"params": p}, x, method="encode_video")[0])
    forth, back = (encode(model.params, golden["video"][:, ::step]) for step in (1, -1))
    gap = np.abs(forth - back).max()
    assert gap < 1e-6 if latent == "linear" else gap > 1e-2


def test_there_and_back(shared, folder, latent):
    reverse(folder / "model", folder / "back.safetensors", overwrite=True)
    before = safetensors.numpy.load_file(shared / f"golden/dgl/{latent}.safetensors")
    after = safetensors.numpy.load_file(folder / "back.safetensors")
    assert before.keys() - after.keys() == {"clip.visual.position_ids"}
    for name, tensor in after.items():
        np.testing.assert_array_equal(tensor, before[name], strict=True)


def test_files_that_do_not_fit(shared, tmp_path):
    files = (shared / f"golden/dgl/{latent}.safetensors" for latent in ("linear", "transformer"))
    linear, transformer = map(safetensors.numpy.load_file, files)
    rows = "clip.unified_prompt_embedding.weight"
    path = tmp_path / "some.safetensors"
    write_tokenizer(tmp_path / "tokenizer")

    def refused(tensors, message):
        safetensors.numpy.save_file(tensors, path)
        with pytest.raises(ConversionError, match=message):
            convert(path, tmp_path / "model", tokenizer=str(tmp_path / "tokenizer"))

    refused(linear | {rows: transformer[rows]}, "tensors of both of DGL's latents are there")
    refused(transformer | {rows: transformer[rows][:-1]}, "unified_prompt_embedding has 19 rows")
    gone = "clip.postfix_text_prompt_proj_layer.weight"
    refused({n: x for n, x in linear.items() if n != gone}, f"missing: {gone} ")
    refused(
        {n: x for n, x in transformer.items() if "unified_prompt_em" not in n},
        "neither of DGL's latents",
    )


@pytest.mark.parametrize(
    ("options", "frames", "message"),
    [
        ({"latent": "transformer", "frames": 12}, 8, "8 frames, but dgl's prompts are for 12"),
        ({"tokens": 40}, 12, "80 prompts of dgl.tokens=40 leave -3 of the text tower's 77 "),
        ({"tokens": 38}, 12, "76 prompts of dgl.tokens=38 leave 1 of the text tower's 77 "),
    ],
)
def test_sizes_that_do_not_fit(options, frames, message):
    with pytest.raises(ValueError, match=message):
        make_model(SIZES["clip_b32"], {"dgl": options}, frames)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent": "mlp"}, "unknown dgl.latent: mlp; choose from linear, transformer, table"),
        ({"output": "cls"}, "unknown dgl.output: cls; choose from global_prompt0"),
        ({"tokens": 0}, "dgl.tokens must be >= 1, got 0"),
        ({"latent": "linear", "frames": 8}, "frames=8 with dgl.latent='linear': must be 0, since"),
        ({"latent": "transformer"}, "dgl.frames=0 with dgl.latent='transformer': must be >= 1"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        DGL(**options)


@pytest.mark.parametrize("order", [1, -1])
def test_prompts_of_another_method_are_a_sentence(order):
    others = ({"towers": ("visual",)}, {"towers": ("text",)}, {"deep": False})
    for options in others:
        methods = dict([("prompt", options), ("dgl", {})][::order])
        with pytest.raises(ValueError, match="another method adds some; take it .prompt and its"):
            abstract_params(make_model(SMALL, methods, 2))


def test_towers_of_other_depths_have_the_prompts_of_the_deeper_one():
    shapes = abstract_params(make_model(SMALL, {"dgl": {}}, 2))
    assert shapes["shared_DGL"]["latent"].shape == (4, 4 * 96)
    assert shapes["visual"]["global_prompt"].shape == (4, 96)
