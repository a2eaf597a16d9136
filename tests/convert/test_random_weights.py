"""Random checkpoints in published layouts."""

import dataclasses

import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

from vlt.convert import (
    ConversionError,
    Given,
    convert,
    convert_chat,
    random_checkpoint,
    reverse,
)
from vlt.data.manifests.resources import resolve
from vlt.model_io.folder import (
    ModelFolderError,
    model_shapes,
    read_model_config,
    read_model_folder,
)
from vlt.models.sizes import SIZES
from vlt.models.spec import EncoderSpec

HEADS = {"visual.heads": 3, "text.heads": 3}  # no config.json says these
FILE, FOLDER = "published.safetensors", "published"


@pytest.mark.parametrize(
    ("size", "family", "name"),
    [
        ("tiny_clip", "clip_hf", FOLDER),
        ("tiny_blip", "blip_hf", FOLDER),
        ("tiny_viclip", "viclip", FILE),
    ],
)
def test_is_converted_as_published_ones_are(size, family, name, tmp_path):
    published, model = tmp_path / name, tmp_path / "model"
    told = random_checkpoint(size, published, family)
    assert told.startswith(f"{published}: ")
    given = {"settings": HEADS, "tokenizer": str(resolve(size) / "tokenizer")}
    report = convert(published, model, **given if name == FILE else {})
    assert f"layout {family}" in report
    _, params = read_model_folder(model)
    shapes = traverse_util.flatten_dict(model_shapes(SIZES[size], {}))
    leaves = traverse_util.flatten_dict(params)
    assert {p: x.shape for p, x in leaves.items()} == {p: x.shape for p, x in shapes.items()}
    back = tmp_path / "back" / name
    back.parent.mkdir()
    reverse(model, back)
    first, second = tensors(published), tensors(back)
    assert first.keys() == second.keys()
    # A temperature passes through logarithms both ways.
    assert all(np.allclose(first[n], second[n], rtol=1e-6, atol=0) for n in first)


def test_a_chat_model_is_made_of_a_language_model_and_a_tower(tmp_path):
    llm, vision, model = (tmp_path / name for name in ("llm", "vision", "model"))
    assert "layout llama" in random_checkpoint("tiny_chat", llm, "llama")
    random_checkpoint("tiny_clip", vision, "clip_hf")
    given = Given(chat="llava", llm=llm, vision=vision, random=["connector"])
    convert_chat(given, model, {}, None, False, None, False)
    config, params = read_model_folder(model)
    assert config.spec.text == SIZES["tiny_chat"].text
    shapes = traverse_util.flatten_dict(model_shapes(config.spec, {}), sep="/")
    leaves = traverse_util.flatten_dict(params, sep="/")
    assert {p: x.shape for p, x in leaves.items()} == {p: x.shape for p, x in shapes.items()}
    words, ours = tensors(llm), leaves["text/head/kernel"]
    assert np.array_equal(words["lm_head.weight"].T, ours)
    with pytest.raises(ConversionError, match="family='llama' writes its language model"):
        random_checkpoint("tiny_chat", tmp_path / FOLDER, "llava")
    chat = SIZES["tiny_chat"]
    more = dataclasses.replace(chat, text=dataclasses.replace(chat.text, vocab=500))
    with pytest.raises(ConversionError, match="500 tokens; tokenizer=: a folder"):
        random_checkpoint(more, tmp_path / FOLDER, "llama")


def test_what_a_layout_fixes_is_not_drawn(tmp_path):
    """BT-Adapter's files have no logit scale, which is fixed at 100."""
    text = SIZES["tiny_clip"].text
    eva = dataclasses.replace(SIZES["eva_clip_g"].visual, width=96, layers=2, heads=3)
    spec = dataclasses.replace(SIZES["eva_clip_g"], visual=eva, text=text, embed_dim=64)
    random_checkpoint(spec, tmp_path / FILE, "btadapter_eva")
    assert not [name for name in tensors(tmp_path / FILE) if "scale" in name]


def tensors(path):
    file = path / "model.safetensors" if path.is_dir() else path
    return safetensors.numpy.load_file(file)


def test_weights_are_those_of_the_seed_and_differ_from_each_other(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        random_checkpoint("tiny_clip", tmp_path / name / FILE, "openai", seed=seed)
    a, b, c = (tensors(tmp_path / name / FILE) for name in "abc")
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert not any(np.array_equal(a[name], c[name]) for name in a)
    assert len({x.tobytes() for x in a.values()}) == len(a)
    assert abs(a["ln_final.weight"].mean() - 1) < 0.01 > abs(a["ln_final.bias"].mean())


def test_a_model_that_reads_no_text_needs_no_tokenizer(tmp_path):
    stages = {"width": 96, "layers": 3, "heads": 3, "mlp_width": 96, "stages": (2, 1)}
    spec = dataclasses.replace(SIZES["videoprism_encoder_b"].visual, **stages)
    random_checkpoint(EncoderSpec(spec), tmp_path / FOLDER, "videoprism_encoder_hf")
    convert(tmp_path / FOLDER, tmp_path / "model")
    assert read_model_config(tmp_path / "model").spec == EncoderSpec(spec)


def test_what_cannot_be_written_is_told(tmp_path):
    with pytest.raises(ConversionError, match="unknown size 'tiny_clp'.*did you mean 'tiny_clip'"):
        random_checkpoint("tiny_clp", tmp_path / FOLDER, "clip_hf")
    with pytest.raises(ConversionError, match="layout blip_hf is for captioner"):
        random_checkpoint("tiny_clip", tmp_path / FOLDER, "blip_hf")
    with pytest.raises(ConversionError, match="layout viclip is one file"):
        random_checkpoint("tiny_viclip", tmp_path / FOLDER, "viclip")
    with pytest.raises(ConversionError, match="49408 tokens; tokenizer=: a folder"):
        random_checkpoint("clip_b32", tmp_path / FOLDER, "clip_hf")
    random_checkpoint("tiny_clip", tmp_path / FOLDER, "clip_hf")
    with pytest.raises(ModelFolderError, match="exists"):
        random_checkpoint("tiny_clip", tmp_path / FOLDER, "clip_hf")
    random_checkpoint("tiny_clip", tmp_path / FOLDER, "clip_hf", overwrite=True)


def test_only_a_captioner_goes_without_a_token_to_encode_with(tmp_path):
    spec = dataclasses.replace(SIZES["tiny_blip"], kind="retriever", embed_dim=8)
    with pytest.raises(ConversionError, match=r"\[ENC\] is 41, not \[DEC\] \+ 1 \(42\)"):
        random_checkpoint(spec, tmp_path / FOLDER, "blip_hf")
