"""TempMe's published layout: read, written back bit for bit, and refused where it does not fit."""

from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

from vlt.convert import ConversionError, convert, parse_settings, reverse
from vlt.export import merged_model
from vlt.model_io.folder import (
    ModelConfig,
    read_model_config,
    read_model_folder,
    write_model_folder,
)
from vlt.model_io.loading import load_folder
from vlt.model_io.view import View

Tensors = dict[str, np.ndarray]

GOLDEN = ("tempme.r=1", "tempme.keep_cross=70", "tempme.keep_intra=90")
LORA = "clip.visual.transformer.resblocks.{}.attn.TVPt_LoRA_{}"
POSITION = "clip.visual.transformer.resblocks.{}.TVPt_Video_Positional_embedding"


@pytest.fixture(scope="module")
def golden(shared: Path) -> Tensors:
    """A TempMe of 12 layers and 12 frames, 64 wide."""
    return safetensors.numpy.load_file(shared / "golden/tempme/a_paper12.safetensors")


def _convert(tensors: Tensors, work: Path, tokenizer: str, *settings: str) -> str:
    safetensors.numpy.save_file(tensors, work / "best.safetensors")
    options = parse_settings(settings)
    return convert(work / "best.safetensors", work / "model", None, options, tokenizer)


def _without_positions(tensors: Tensors) -> Tensors:
    return {name: x for name, x in tensors.items() if "Positional" not in name}


def _same_bits(a: Tensors, b: Tensors) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert (a[name].dtype, a[name].shape) == (b[name].dtype, b[name].shape), name
        assert a[name].tobytes() == b[name].tobytes(), name


@pytest.mark.slow
def test_there_and_back(golden, tmp_path, tokenizer):
    report = _convert(golden, tmp_path, tokenizer, *GOLDEN)
    config, params = read_model_folder(tmp_path / "model")
    tempme = {"layers": [8, 9, 10], "join": [2, 2, 3], "r": 1, "keep_cross": 70, "keep_intra": 90}
    assert config.methods == {"lora": {"rank": 8}, "tempme": tempme}
    assert (config.frames, config.frame_norm, config.source["layout"]) == (12, True, "tempme")
    assert "tempme.join: 3 in the last layer, so that one clip is left (assumed)" in report
    assert "tempme.r: 1 (set)" in report
    attention = params["visual"]["blocks_3"]["attention"]
    b = golden[LORA.format(3, "b")]
    np.testing.assert_array_equal(attention["lora_a"], golden[LORA.format(3, "a")].T)
    np.testing.assert_array_equal(attention["value"]["lora_b"], b[128:].T)
    position = golden[POSITION.format(9)]
    np.testing.assert_array_equal(params["visual"]["blocks_9"]["clip_position"], position[0, :, 0])
    reverse(tmp_path / "model", tmp_path / "back.safetensors")
    _same_bits(golden, safetensors.numpy.load_file(tmp_path / "back.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("merge", [False, True])
def test_converted_and_merged_models_give_the_published_embeddings(
    shared, golden, tmp_path, tokenizer, merge
):
    _convert(golden, tmp_path, tokenizer, *GOLDEN)
    model = load_folder(str(tmp_path / "model"))
    if merge:
        model = merged_model(model)
        assert list(model.config.methods) == ["tempme"]
    published = np.load(shared / "golden/tempme/a_paper12.npz")
    inputs = {
        "video": published["video"].transpose(0, 1, 3, 4, 2).astype(np.float32),
        "text": published["text_ids"].astype(np.int32),
    }
    for name, tolerance in (("video", 2e-5), ("text", 5e-5)):
        encode = jax.jit(partial(model.module.apply, method=f"encode_{name}"))
        found = encode({"params": model.params}, inputs[name])[1][f"{name}_features"]
        np.testing.assert_allclose(found, published[f"{name}_embedding"], atol=tolerance)


def test_a_model_trained_here_is_written_in_the_published_layout(golden, tmp_path, tokenizer):
    """Without a record of the names it came from."""
    _convert(golden, tmp_path, tokenizer, *GOLDEN)
    config, params = read_model_folder(tmp_path / "model")
    bare = ModelConfig("clip", config.spec, config.methods, config.preprocessing, 12, True)
    write_model_folder(tmp_path / "bare", bare, params, Path(tokenizer))
    reverse(tmp_path / "bare", tmp_path / "back.safetensors", "tempme")
    _same_bits(golden, safetensors.numpy.load_file(tmp_path / "back.safetensors"))


def test_a_scale_that_the_layout_cannot_say_is_refused(golden, tmp_path, tokenizer):
    _convert(_without_positions(golden), tmp_path, tokenizer)
    config, params = read_model_folder(tmp_path / "model")
    scaled = ModelConfig("clip", config.spec, {"lora": {"alpha": 16.0}}, config.preprocessing)
    write_model_folder(tmp_path / "scaled", scaled, params, Path(tokenizer))
    with pytest.raises(
        ConversionError, match=r"lora\.scale is 2\.0, layout tempme fixes it at 1\.0"
    ):
        reverse(tmp_path / "scaled", tmp_path / "back.safetensors", "tempme")


def test_the_lora_baseline_alone(golden, tmp_path, tokenizer):
    _convert(_without_positions(golden), tmp_path, tokenizer)
    config = read_model_config(tmp_path / "model")
    assert config.methods == {"lora": {"rank": 8}}
    assert (config.frames, config.frame_norm) == (None, True)
    assert config.view == View("fps1_linspace", 12)
    (tmp_path / "again").mkdir()
    with pytest.raises(ConversionError, match=r"--set tempme\.r: .*no clip positions"):
        _convert(_without_positions(golden), tmp_path / "again", tokenizer, "tempme.r=2")


def _patches(tensors: Tensors, size: int, side: int) -> Tensors:
    """The same tower with patches of another size and number."""
    rng = np.random.default_rng(0)
    return tensors | {
        "clip.visual.conv1.weight": rng.normal(size=(64, 3, size, size)).astype(np.float32),
        "clip.visual.positional_embedding": rng.normal(size=(1 + side**2, 64)).astype(np.float32),
    }


@pytest.mark.quick(1)
@pytest.mark.parametrize(("patch", "options"), [(16, (10, 60, 80)), (32, (2, 70, 90))])
def test_what_tensors_cannot_tell_is_as_published(golden, tmp_path, tokenizer, patch, options):
    report = _convert(_patches(golden, patch, 224 // patch), tmp_path, tokenizer)
    tempme = read_model_config(tmp_path / "model").methods["tempme"]
    assert tuple(tempme[key] for key in ("r", "keep_cross", "keep_intra")) == options
    assert f"tempme.r: {options[0]} (as published for patches of {patch} pixels)" in report


def test_other_patches_want_settings(golden, tmp_path, tokenizer):
    with pytest.raises(ConversionError, match=r"for patches of 14 pixels; --set tempme\.r=N"):
        _convert(_patches(golden, 14, 16), tmp_path, tokenizer)


def test_all_misfits_are_listed_at_once(golden, tmp_path, tokenizer):
    gone = [LORA.format(3, "a"), *(LORA.format(5, part) for part in "ab")]
    tensors = {name: x for name, x in golden.items() if name not in gone}
    extra = "clip.visual.transformer.resblocks.2.attn.TVPt_LoRA_c"
    tensors[extra] = np.zeros((8, 64), np.float32)
    tensors[LORA.format(6, "a")] = np.zeros((4, 64), np.float32)
    with pytest.raises(ConversionError) as caught:
        _convert(tensors, tmp_path, tokenizer, *GOLDEN)
    message = str(caught.value)
    for name in gone:
        assert f"missing: {name} " in message
    assert f"unexpected: {extra} " in message
    assert f"wrong_shape: {LORA.format(6, 'a')} " in message


def test_options_that_do_not_fit_the_sizes(golden, tmp_path, tokenizer):
    """Ten pairs in each of eight layers are more than a frame's sixteen patches allow."""
    with pytest.raises(ConversionError, match=r"tempme\.r=10"):
        _convert(golden, tmp_path, tokenizer)


def test_clips_that_cannot_follow_each_other(golden, tmp_path, tokenizer):
    position = POSITION.format(9)
    wrong = golden | {position: np.ascontiguousarray(golden[position][:, :5])}
    with pytest.raises(ConversionError, match="layer 8 are for 12 clips, of layer 9 for 5"):
        _convert(wrong, tmp_path, tokenizer, *GOLDEN)
