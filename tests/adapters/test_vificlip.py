"""ViFi-CLIP's prompts against golden numbers of the published modules, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util
from golden_numbers import numbers
from golden_recognition import base_clip, converted
from optax import softmax_cross_entropy_with_integer_labels

from vlt.adapters.vificlip import ViFiCLIP
from vlt.convert import ConversionError, convert, parse_settings, reverse
from vlt.convert.layouts.families import get_family
from vlt.convert.tables.table import to_tensors
from vlt.model_io.folder import read_model_folder
from vlt.models.spec import DualEncoderSpec, TextSpec, VisionSpec

NAME = "ost/vificlip_prompts_frames4"
SPEC = DualEncoderSpec(
    VisionSpec(24, 8, 64, 4, 1, 256), TextSpec(20, 64, 64, 4, 1, 256), embed_dim=64
)
V, W = 3, 5


pytestmark = pytest.mark.usefixtures("highest_precision")


@pytest.fixture(scope="module")
def golden(shared):
    return numbers(shared, NAME)


@pytest.fixture(scope="module")
def model(shared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vificlip")
    return converted(shared, NAME, folder, f"base={base_clip(SPEC, folder)}")


@pytest.fixture(scope="module")
def embedded(shared, golden):
    """Embedded words of the classes [c, 15, d], without context, as the published code has them."""
    tensors = safetensors.numpy.load_file(shared / f"golden/{NAME}.safetensors")
    parts = [tensors[f"prompt_learner.token_{name}"] for name in ("prefix", "suffix")]
    return np.float32(np.concatenate(parts, axis=1))


def test_options_are_read_off_the_tensors(model):
    assert model.config.methods == {
        "vificlip": {"visual_tokens": 3, "visual_depth": 3, "text_tokens": 5, "text_depth": 2}
    }


def test_tokens_losses_and_gradients(golden, model, embedded):
    """Texts index a table that holds the classes' own embedded words, one after another."""
    classes, length = embedded.shape[:2]
    ids = jnp.arange(1, classes * length + 1).reshape(classes, length)
    # The token that is read has the highest id: the end, after the context.
    ends = golden["tokenized_prompts"].argmax(-1) - W
    top = classes * length + 1
    ids = ids.at[jnp.arange(classes), ends].add(top)
    table = np.zeros((2 * top, embedded.shape[-1]), np.float32)
    table[np.asarray(ids)] = embedded
    spec = dataclasses.replace(
        model.module.spec, text=dataclasses.replace(model.module.spec.text, vocab=2 * top)
    )
    module = model.module.clone(spec=spec, cls_only=False)
    text = model.params["text"] | {"token_embedding": {"embedding": table}}
    params = model.params | {"text": text}

    @jax.jit
    def run(params):
        def loss(params):
            def encode(kind, x):
                method = f"encode_{kind}"
                return module.apply({"params": params}, x, method=method, capture=True)

            (video, seen), (texts, read) = encode("video", golden["video"]), encode("text", ids)
            logits = jnp.exp(params["logit_scale"]) * video @ texts.T
            value = softmax_cross_entropy_with_integer_labels(logits, golden["labels"]).mean()
            return value, (logits, seen, read)

        return jax.value_and_grad(loss, has_aux=True)(params)

    (value, (logits, seen, read)), gradients = run(params)
    at = {"atol": 5e-5}
    np.testing.assert_allclose(read["stem"].x[:, 0], prompts_in(golden, model), **at)
    for layer in range(4):
        last = np.roll(golden[f"visual{layer}_tokens"][:, :, 1:], V, axis=2)
        expected = np.concatenate([golden[f"visual{layer}_tokens"][:, :, :1], last], axis=2)
        np.testing.assert_allclose(seen[f"block_{layer}"].x, expected, **at)
        found = read[f"block_{layer}"].x[:, 0]
        np.testing.assert_allclose(found, golden[f"text{layer}_tokens"], **at)
    np.testing.assert_allclose(seen["frames"], golden["frame_features"], **at)
    np.testing.assert_allclose(read["text_features"], golden["text_features"], **at)
    np.testing.assert_allclose(logits, golden["logits"], atol=1e-4)
    np.testing.assert_allclose(value, golden["loss"], rtol=1e-5)
    found, left = to_tensors(
        get_family("vificlip").rules, traverse_util.flatten_dict(gradients, sep="/")
    )
    assert not left
    for name, norm in zip(golden["grad_names"], golden["grad_norms"], strict=True):
        np.testing.assert_allclose(np.linalg.norm(found[name]), norm, rtol=1e-3)
        whole = golden[f"grad/{name}"]
        assert np.abs(found[name] - whole).max() < 1e-3 * np.linalg.norm(whole), name


def prompts_in(golden, model) -> np.ndarray:
    """Words and context with their positions added."""
    return golden["prompts_in"] + np.asarray(model.params["text"]["position_embedding"])


def test_every_prompt_is_read(model):
    """The prompts are the only new leaves."""
    new = {
        path
        for path in traverse_util.flatten_dict(model.params, sep="/")
        if path.endswith("vificlip_prompt")
    }
    assert new == {
        *("visual/vificlip_prompt", "text/vificlip_prompt", "text/blocks_1/vificlip_prompt"),
        *(f"visual/blocks_{i}/vificlip_prompt" for i in (1, 2)),
    }


def test_there_and_back(shared, model, tmp_path):
    """Word embeddings come from the CLIP and are not written."""
    given = safetensors.numpy.load_file(shared / f"golden/{NAME}.safetensors")
    folder = model.tokenizer.parent
    report = reverse(folder, tmp_path / "back.safetensors")
    assert "dropped, not written: prompt_learner.token_prefix" in report
    back = safetensors.numpy.load_file(tmp_path / "back.safetensors")
    kept = {name: x for name, x in given.items() if "token_" not in name}
    assert back.keys() == kept.keys()
    for name, x in kept.items():
        assert back[name].dtype == x.dtype and back[name].tobytes() == x.tobytes(), name
    _, params = read_model_folder(folder)
    assert params["text"]["vificlip_prompt"].shape == (W, 64)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "family", "message"),
    [
        ((), "ost", r"unexpected: image_encoder.VPT "),
        (("image_encoder.VPT",), None, r"missing: image_encoder.VPT \(for visual/vificlip_prompt"),
        (
            ("image_encoder.transformer.resblocks.1.VPT_shallow",),
            None,
            "missing: image_encoder.transformer.resblocks.1.VPT_shallow",
        ),
    ],
)
def test_files_of_another_stage_or_in_part(shared, tmp_path, changes, family, message):
    given = safetensors.numpy.load_file(shared / f"golden/{NAME}.safetensors")
    for name in changes:
        del given[name]
    safetensors.numpy.save_file(given, tmp_path / "a.safetensors")
    settings = parse_settings([f"base={base_clip(SPEC, tmp_path)}"])
    with pytest.raises(ConversionError, match="no embedding of words, as ViFi-CLIP's; --set base"):
        convert(tmp_path / "a.safetensors", tmp_path / "m", family, {}, f"{tmp_path}/words")
    with pytest.raises(ConversionError, match=message):
        convert(tmp_path / "a.safetensors", tmp_path / "m", family, settings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"visual_tokens": -1}, "vificlip.visual_tokens must be >= 0, got -1"),
        ({"text_depth": 0}, "vificlip.text_depth must be >= 1, got 0"),
        ({"visual_tokens": 0, "text_tokens": 0}, "no prompts"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        ViFiCLIP(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_depth": 2}, "vificlip.visual_depth=9: the tower has 4 blocks"),
        (
            {"visual_tokens": 0, "text_tokens": 18, "text_depth": 4},
            "leave 2 of the text tower.s 20 ",
        ),
    ],
)
def test_sizes_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        ViFiCLIP(**options).check(SPEC, 4)
