"""SigLIP's layouts in both directions, their tokenizers, and what is refused by name."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import safetensors.numpy
import siglip_files

from vlt.convert import convert, parse_settings, reverse
from vlt.convert.errors import ConversionError
from vlt.convert.layouts.siglip import siglip_spec
from vlt.convert.tokenizer import write_tokenizer
from vlt.data.text.tokenize import Tokenizer
from vlt.model_io.folder import read_model_config
from vlt.models.spec import TextSpec

TEXT = TextSpec(12, 300, 8, 1, 1, 8, causal=False, readout="last")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return str(siglip_files.bytes_and_letters(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def model(shared, tokenizer, tmp_path_factory):
    """The authors' .npz, converted."""
    folder = tmp_path_factory.mktemp("converted") / "model"
    convert(siglip_files.npz(shared), folder, tokenizer=tokenizer)
    return folder


def same(ours, theirs):
    assert sorted(ours) == sorted(theirs)
    for name in theirs:
        assert ours[name].dtype == theirs[name].dtype
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_each_layout_is_written_as_it_was_and_as_the_other(shared, model, tmp_path):
    theirs = np.load(siglip_files.npz(shared))
    reverse(model, tmp_path / "back.npz")
    same(np.load(tmp_path / "back.npz"), theirs)
    reverse(model, tmp_path / "hf", family="siglip_hf")
    golden = shared / "golden/siglip2/siglip2_small.safetensors"
    same(*map(safetensors.numpy.load_file, (tmp_path / "hf/model.safetensors", golden)))
    assert siglip_spec(tmp_path / "hf") == read_model_config(model).spec
    pixels = json.loads((tmp_path / "hf/preprocessor_config.json").read_text())
    assert (pixels["image_processor_type"], pixels["resample"]) == ("SiglipImageProcessor", 2)
    for target, family in (("x.safetensors", "siglip"), ("x.npz", "siglip_hf")):
        with pytest.raises(ConversionError, match=f"layout {family} is published as"):
            reverse(model, tmp_path / target, family=family)


@pytest.mark.slow
def test_layers_by_themselves_as_siglip_1_has_them(shared, model, tokenizer, tmp_path):
    apart = {}
    for name, array in np.load(siglip_files.npz(shared)).items():
        before, layers, after = name.partition("/encoderblock/")
        for i in range(len(array) if layers else 1):
            one = f"{before}/encoderblock_{i}/{after}" if layers else name
            apart[one] = array[i] if layers else array
    np.savez_compressed(tmp_path / "apart.npz", **apart)
    convert(tmp_path / "apart.npz", tmp_path / "model", tokenizer=tokenizer)
    assert read_model_config(tmp_path / "model").spec == read_model_config(model).spec
    reverse(tmp_path / "model", tmp_path / "back.npz")
    same(np.load(tmp_path / "back.npz"), apart)
    np.savez(tmp_path / "both.npz", **apart | dict(np.load(siglip_files.npz(shared))))
    with pytest.raises(ConversionError, match="encoderblock_0.* by itself and with other layers"):
        convert(tmp_path / "both.npz", tmp_path / "other", tokenizer=tokenizer)


@pytest.mark.slow
def test_tensors_that_do_not_fit_are_listed(shared, tokenizer, tmp_path):
    arrays = dict(np.load(siglip_files.npz(shared)))
    query = "params/img/Transformer/encoderblock/MultiHeadDotProductAttention_0/query/bias"
    changes = {
        query: (arrays[query].reshape(3, 2, 36), "of 2 heads, others of 4"),
        "params/img/MAPHead_0/probe": (np.zeros((1, 2, 72)), r"MAPHead_0.probe \(\[1, 2, 72\], "),
        "params/txt/Encoder_0/encoderblock/LayerNorm_0/scale": (
            np.ones((1, 48)),
            "encoderblock_1.LayerNorm_0.scale",
        ),
        "params/b": (None, "missing: b "),
        "params/c": (np.zeros(1), "unexpected: c "),
    }
    for name, (array, message) in changes.items():
        changed = arrays | {name: array}
        np.savez(tmp_path / "x.npz", **{n: x for n, x in changed.items() if x is not None})
        with pytest.raises(ConversionError, match=message):
            convert(tmp_path / "x.npz", tmp_path / "no", tokenizer=tokenizer)
    cut = parse_settings(["text.context=32"])
    with pytest.raises(ConversionError, match="reads the last of 64 tokens, all of them"):
        convert(siglip_files.npz(shared), tmp_path / "no", settings=cut, tokenizer=tokenizer)
    with pytest.raises(ConversionError, match="visual.heads=8: the tensors are of 4"):
        convert(
            siglip_files.npz(shared),
            tmp_path / "no",
            settings=parse_settings(["visual.heads=8"]),
            tokenizer=tokenizer,
        )


def ids(source, target, texts, text=TEXT):
    write_tokenizer(str(source), target, text)
    return Tokenizer.load(target, text.context)(texts).tolist()


def test_what_becomes_of_texts_is_told_from_the_vocabulary(tmp_path):
    """The folder's tokenizer class and padding side do not matter."""
    texts = ["A b.", "", "abcdefghijklmnop"]
    first = 260  # of the letters' ids, after special tokens and bytes
    gemma = siglip_files.bytes_and_letters(tmp_path / "gemma")
    rows = ids(gemma, tmp_path / "2", texts)
    assert rows[0] == [first + 1, first, first + 2, first + 27, 1] + 7 * [0], "lower, a full stop"
    assert rows[1] == [1] + 11 * [0] and rows[2] == [*range(first + 1, first + 12), 1]
    t5 = siglip_files.single_pieces(tmp_path / "t5")
    rows = ids(t5, tmp_path / "1", texts)
    assert rows[0] == [3, 4, 3, 5] + 8 * [1], "canonical, padded with what ends a text"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (dict(vocab=32000), "has 300 tokens, the checkpoint has embeddings for 32000"),
        (dict(vocab=299), "has 300 tokens, the checkpoint has embeddings for 299"),
        (dict(readout="end", end_id=2), "puts ids .* around a text"),
    ],
)
def test_a_text_tower_of_another_vocabulary(text, message, tmp_path):
    source = siglip_files.bytes_and_letters(tmp_path / "gemma")
    with pytest.raises(ConversionError, match=message):
        write_tokenizer(str(source), tmp_path / "x", dataclasses.replace(TEXT, **text))


def test_folders_that_are_refused_by_name(shared, tmp_path):
    folder = siglip_files.folder(shared, tmp_path / "hf")
    config = json.loads((folder / "config.json").read_text())

    def stated(**changes):
        (folder / "config.json").write_text(json.dumps(config | changes))
        return siglip_spec(folder)

    with pytest.raises(ConversionError, match="model_type 'siglip2' is NaFlex"):
        stated(model_type="siglip2")
    with pytest.raises(ConversionError, match="vision_use_head is off"):
        stated(vision_config=config["vision_config"] | {"vision_use_head": False})
    with pytest.raises(ConversionError, match="projection_size is 48, but what is pooled"):
        stated(text_config=config["text_config"] | {"projection_size": 48})
    stated()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(ConversionError, match=r"holds no tokenizer; --tokenizer .*siglip2-base"):
        convert(folder, tmp_path / "model")
    shutil.rmtree(folder)
