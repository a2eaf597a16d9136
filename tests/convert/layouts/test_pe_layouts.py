"""PE-Core's and EVA02-CLIP's layouts, there and back, and files that are neither."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from vlt.convert import ConversionError, convert, parse_settings, reverse
from vlt.convert.files.arrays import Tensors
from vlt.data.video.transform import apply_transform
from vlt.model_io.folder import ModelConfig, read_model_config, read_model_folder
from vlt.model_io.view import View

torch = pytest.importorskip("torch", reason="files of torch")
HEADS = ("visual.heads=4", "text.heads=3")
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def pe(shared: Path) -> Tensors:
    return safetensors.numpy.load_file(shared / "golden/pe_core/pe_core_small.safetensors")


@pytest.fixture(scope="module")
def eva(shared: Path, pe: Tensors) -> Tensors:
    """The golden vision tower beside a text tower under EVA02-CLIP's names."""
    tensors = safetensors.numpy.load_file(shared / "golden/pe_core/eva02_small.safetensors")
    texts = {f"text.{name}": x for name, x in pe.items() if not name.startswith("visual.")}
    texts["logit_scale"] = texts.pop("text.logit_scale")
    texts["text.text_projection"] = RNG.normal(size=(48, 32)).astype(np.float32)
    return tensors | texts


def save(path: Path, tensors: Tensors, wrapper: str = "") -> Path:
    arrays: Any = {name: torch.from_numpy(x.copy()) for name, x in tensors.items()}
    torch.save({wrapper: arrays} if wrapper else arrays, path)
    return path


def converted(source: Path, folder: Path, tokenizer: str, *settings: str) -> ModelConfig:
    convert(source, folder, settings=parse_settings([*HEADS, *settings]), tokenizer=tokenizer)
    return read_model_config(folder)


def assert_back(folder: Path, tensors: Tensors) -> None:
    reverse(folder, folder / "back.safetensors")
    back = safetensors.numpy.load_file(folder / "back.safetensors")
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (back[name].dtype, back[name].shape) == (tensor.dtype, tensor.shape), name
        assert back[name].tobytes() == tensor.tobytes(), name


def test_pe_core_there_and_back(shared: Path, pe: Tensors, tmp_path: Path, tokenizer: str):
    named = {f"module.{name}": x.astype(np.float16) for name, x in pe.items()}
    source = save(tmp_path / "pe.pt", named, "weights")
    config = converted(source, tmp_path / "model", tokenizer)
    visual, text = config.spec.visual, config.spec.text
    assert (visual.image_size, visual.patch_size, visual.width, visual.layers) == (32, 8, 64, 3)
    assert (visual.pool, visual.class_token, visual.rope) == ("attention", True, "pe")
    assert (visual.pooler.heads, visual.pooler.width, visual.pooler.mlp_width) == (8, 64, 256)
    assert (visual.activation, text.activation, text.context) == ("gelu", "gelu", 32)
    assert config.family == "pe_core" and config.spec.embed_dim == 48 and config.frame_norm
    assert config.view == View("linspace_floor", 8)
    assert config.preprocessing == {
        "image_size": 32, "mean": [0.5] * 3, "std": [0.5] * 3,
        "resize": "bilinear", "crop": "none",
    }  # fmt: skip
    golden = np.load(shared / "golden/pe_core/preprocess.npz")
    steps = config.view.transform(config.preprocessing | {"image_size": 56})
    pixels = apply_transform(steps, golden["image"][None], seed=0)[0] / 127.5 - 1
    np.testing.assert_allclose(pixels.transpose(2, 0, 1), golden["squash_bilinear"], atol=1e-6)
    assert_back(tmp_path / "model", named)


@pytest.mark.slow
def test_pe_core_without_class_token_and_at_another_size(
    pe: Tensors, tmp_path: Path, tokenizer: str
):
    """Like the G size; its places are counted from 0."""
    tensors = {name: x for name, x in pe.items() if name != "visual.class_embedding"}
    tensors["visual.positional_embedding"] = pe["visual.positional_embedding"][1:].copy()
    source = save(tmp_path / "pe.pt", tensors)
    config = converted(source, tmp_path / "model", tokenizer)
    assert not config.spec.visual.class_token and config.spec.visual.image_size == 32
    assert_back(tmp_path / "model", tensors)
    other = converted(source, tmp_path / "larger", tokenizer, "visual.image_size=48")
    assert (other.spec.visual.image_size, other.preprocessing["image_size"]) == (48, 48)
    _, params = read_model_folder(tmp_path / "larger")
    assert params["visual"]["position_embedding"].shape == (36, 64)
    assert "rotary places go on" in (tmp_path / "larger/report.txt").read_text()


@pytest.mark.slow
def test_eva02_there_and_back(eva: Tensors, tmp_path: Path, tokenizer: str):
    config = converted(save(tmp_path / "eva.pt", eva), tmp_path / "model", tokenizer)
    visual = config.spec.visual
    assert (visual.image_size, visual.mlp_width, visual.norm_eps) == (56, 170, 1e-6)
    assert (visual.activation, visual.rope, visual.key_bias) == ("silu", "eva", False)
    assert visual.gated_mlp and visual.sub_norm and config.family == "eva02_clip"
    assert config.spec.text.activation == "gelu" and config.preprocessing["crop"] == "center"
    dropped = {name for name in eva if "rope.freqs" in name}
    assert len(dropped) == 8
    assert_back(tmp_path / "model", {n: x for n, x in eva.items() if n not in dropped})


def alone(pe: Tensors, prefix: str, scaled: bool) -> Tensors:
    """The tensors that PE-Lang and PE-Spatial files hold."""
    behind = ("ln_post", "proj", "attn_pool")
    tower = {name.removeprefix("visual."): x for name, x in pe.items() if "visual." in name}
    tower = {name: x for name, x in tower.items() if not name.startswith(behind)}
    if scaled:
        tower |= {f"transformer.resblocks.0.ls_{i}.gamma": np.ones(64, "f4") for i in (1, 2)}
    return {prefix + name: x for name, x in tower.items()}


@pytest.mark.parametrize(("prefix", "scaled"), [("", True), ("module.visual.", False)])
def test_pe_lang_and_pe_spatial_are_named(
    pe: Tensors, tmp_path: Path, tokenizer: str, prefix: str, scaled: bool
):
    source = save(tmp_path / "PE-Lang.pt", alone(pe, prefix, scaled))
    message = r"PE-Lang.pt: a vision tower .*as PE-Lang's and PE-Spatial's; convert PE-Core"
    with pytest.raises(ConversionError, match=message) as caught:
        converted(source, tmp_path / "model", tokenizer)
    assert ("LayerScale" in str(caught.value)) == scaled


def test_what_does_not_fit_is_named(pe: Tensors, eva: Tensors, tmp_path: Path, tokenizer: str):
    def refused(tensors: Tensors, match: str, *settings: str) -> None:
        with pytest.raises(ConversionError, match=match):
            converted(save(tmp_path / "x.pt", tensors), tmp_path / "model", tokenizer, *settings)

    other = pe | {"token_embedding.weight": np.ones((5, 48), "f4")}
    refused(other, "its ids go up to 6, the checkpoint has embeddings for 5")
    layered = pe | {"visual.transformer.resblocks.0.ls_1.gamma": np.ones(64, "f4")}
    refused(layered, r"layout pe\n  unexpected: visual.transformer.resblocks.0.ls_1.gamma")
    probeless = {name: x for name, x in pe.items() if name != "visual.attn_pool.layernorm.bias"}
    refused(probeless, "missing: visual.attn_pool.layernorm.bias")
    refused(eva, "--set visual.activation: layout eva02 fixes it at silu", "activation=gelu")
