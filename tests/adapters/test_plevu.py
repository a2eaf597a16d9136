"""PLEVU against the numbers of its published code, and what does not fit."""

import golden_prompts
import jax
import numpy as np
import pytest
import safetensors.numpy
from golden_numbers import numbers
from golden_prompts import TOKENIZER, close

from vlt.adapters.plevu import PLEVU
from vlt.convert import reverse
from vlt.model_io.build import abstract_params, check_frames, forward, make_model
from vlt.model_io.folder import write_model_folder
from vlt.models.sizes import SIZES
from vlt.models.spec import DualEncoderSpec, TextSpec, VisionSpec
from vlt.pytrees.partition import merge
from vlt.tasks.losses import contrastive, info_nce
from vlt.training.rules import partition

NAME = "efficient_prompt/prompts_temporal"
SETTINGS = ("plevu.prefix=3", "plevu.postfix=2", "plevu.heads=4")
SCALE = 1 / 0.07


@pytest.fixture(scope="module")
def golden(shared):
    """Outputs of the published code. Its texts are as long as the tower's context, whose last five
    tokens, all padding, make room for prompts."""
    found = numbers(shared, NAME)
    assert not found["text_ids"][:, 72:].any()
    return found | {"text_ids": found["text_ids"][:, :72]}


@pytest.fixture(scope="module")
def ours(shared, golden, tmp_path_factory):
    """The same from the converted weights: both losses, outputs, and the gradient of recognition's
    loss under published names."""
    folder = tmp_path_factory.mktemp("plevu")
    model, config, params = golden_prompts.converted(shared, NAME, folder / "model", *SETTINGS)
    assert model.methods == (PLEVU(3, 2, 2, 4),)
    assert (config.frames, config.frame_norm, model.longest_text) == (4, False, 72)
    trained, rest = partition(params, (("(visual|text)/plevu.*", {"lr": 1.0}), (".*", "frozen")))

    def loss(trained, rest):
        params = merge(trained, rest)
        out = model.apply({"params": params}, golden["video"], golden["text_ids"], capture=True)
        pair = out["video"], out["text"], SCALE
        return info_nce(*pair), (contrastive(*pair) / 2, out)

    with jax.default_matmul_precision("highest"):
        found = jax.jit(jax.value_and_grad(loss, has_aux=True))(trained, rest)
    (value, (symmetric, out)), gradient = jax.device_get(found)
    write_model_folder(folder / "gradient", config, merge(gradient, rest), TOKENIZER)
    reverse(folder / "gradient", folder / "gradient.safetensors")
    return value, symmetric, out, safetensors.numpy.load_file(folder / "gradient.safetensors")


def test_embeddings_logits_and_losses(ours, golden):
    value, symmetric, out, _ = ours
    close(out["visual_out"]["video_features"], golden["video_embedding"], 2e-5)
    close(out["text_out"]["text_features"], golden["text_embedding"], 5e-5)
    close(SCALE * out["video"] @ out["text"].T, golden["logits_video_by_text"], 5e-4)
    close(value, golden["loss"], 2e-4)
    close(symmetric, golden["loss_symmetric"], 2e-4)


def test_texts(ours, golden):
    """Tokens up to the last one that is read; no text sees what stands after it."""
    text = ours[2]["text_out"]
    for layer in range(2):
        length = golden[f"text_block{layer}"].shape[1]
        close(text[f"block_{layer}"].x[:, 0, :length], golden[f"text_block{layer}"], 5e-5)
    np.testing.assert_array_equal(text["block_1"].readout, golden["eot_after_insertion"])


def test_gradients(ours, golden):
    gradient = ours[3]
    norms = [np.linalg.norm(gradient[name]) for name in golden["grad_names"]]
    np.testing.assert_allclose(norms, golden["grad_norms"], rtol=1e-3)
    for name in ("embedding.weight", "temporalEmbedding.weight"):
        close(gradient[name], golden[f"grad.{name}"], 1e-3 * np.abs(golden[f"grad.{name}"]).max())
    # The first row falls on the start of the text, and no text is long enough to reach the last.
    read = np.abs(gradient["embedding.weight"]).max(-1) > 0
    np.testing.assert_array_equal(read, np.abs(golden["grad.embedding.weight"]).max(-1) > 0)
    assert not read[0] and read[1:4].all() and not read[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"postfix": -1}, "plevu.postfix must be >= 0, got -1"),
        ({"prefix": 60}, "plevu.prefix=60 and plevu.postfix=16 leave 1 of the text tower's 77 po"),
        ({"heads": 7}, "plevu.heads=7 must divide the 512 channels of frame embeddings"),
    ],
)
def test_what_does_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        PLEVU(**options).check(SIZES["clip_b32"], 12)


SMALL = DualEncoderSpec(VisionSpec(8, 4, 16, 1, 2, 32), TextSpec(12, 20, 16, 1, 2, 32), embed_dim=8)


def small():
    return make_model(SMALL, {"plevu": {"prefix": 3, "postfix": 4, "heads": 2}}, 4)


def test_another_number_of_frames_is_a_sentence():
    model = small()
    with pytest.raises(ValueError, match="6 frames, but visual/plevu/pos.*trained on 4 frames"):
        check_frames(model, abstract_params(model), 6)


def test_a_text_that_leaves_no_place_for_what_is_read_is_a_sentence():
    model = small()
    assert model.longest_text == 5
    params, ids = abstract_params(model), jax.ShapeDtypeStruct((1, 6), np.int32)
    with pytest.raises(ValueError, match="6 text tokens and 7 of methods, but the tower's context"):
        jax.eval_shape(forward(model, "encode_text"), params, ids)
