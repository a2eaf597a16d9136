"""ViCLIP's layout, read and written back, and CLIP made into a ViCLIP."""

import re
from pathlib import Path
from typing import Any

import golden_viclip
import jax
import numpy as np
import pytest
import safetensors.numpy
import torch
from flax import traverse_util
from golden_viclip import HEADS
from torch import nn

from vlt.convert import ConversionError, convert, parse_settings, reverse
from vlt.convert.layouts.viclip import VICLIP, inflate_kernel
from vlt.model_io.build import make_model
from vlt.model_io.folder import read_model_config, read_model_folder
from vlt.model_io.view import View
from vlt.models.interpolation import resize_positions, resize_temporal

Tensors = dict[str, np.ndarray]
BUFFERS = ("input_resolution", "context_length", "vocab_size")
JOINT = ("activation=quick_gelu", "visual.temporal_frames=4", "text.context=6")


@pytest.fixture(scope="module")
def state(shared: Path) -> Tensors:
    return golden_viclip.state(shared)


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, np.ndarray]:
    return golden_viclip.numbers(shared)


def save(path: Path, tensors: Tensors, **rest: Any) -> Path:
    """Saves a torch file of the tensors, in a dict as `model` if there are other entries."""
    arrays = {name: torch.from_numpy(x.copy()) for name, x in tensors.items()}
    torch.save({"model": arrays, **rest} if rest else arrays, path)
    return path


def converted(path: Path, folder: Path, tokenizer: str, *settings: str) -> tuple[Any, Tensors]:
    """The config and the flat parameters of the converted file."""
    convert(path, folder, settings=parse_settings(settings), tokenizer=tokenizer)
    config, params = read_model_folder(folder)
    return config, traverse_util.flatten_dict(params, sep="/")


def assert_same(back: Tensors, tensors: Tensors) -> None:
    """Equal bits, except for the temperature, which float32 rounds."""
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (back[name].dtype, back[name].shape) == (tensor.dtype, tensor.shape), name
        if name.endswith("temp"):
            np.testing.assert_allclose(back[name], tensor, rtol=1e-6)
        else:
            assert back[name].tobytes() == np.ascontiguousarray(tensor).tobytes(), name


def test_there_and_back(shared: Path, state: Tensors, tmp_path: Path, tokenizer: str):
    folder = golden_viclip.converted(shared, tmp_path / "model", tokenizer)
    config = read_model_config(folder)
    visual, text = config.spec.visual, config.spec.text
    assert (visual.image_size, visual.patch_size, visual.temporal_frames) == (64, 16, 8)
    assert config.view == View("viclip_middle", 8)
    assert (visual.layers, visual.heads, text.context, text.heads) == (4, 4, 32, 4)
    assert visual.activation == text.activation == "quick_gelu"
    assert config.family == "viclip" and not config.methods
    assert config.preprocessing == {
        "image_size": 64,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "resize": "bicubic",
        "crop": "none",
    }
    report = (folder / "report.txt").read_text()
    assert "epsilon 1e-05, 8 frames jointly\n" in report
    line = next(line for line in report.splitlines() if line.startswith("temp "))
    assert line.split()[2:] == ["float32", "logit_scale", "ln(1", "/", "t)"]
    reverse(folder, tmp_path / "back.safetensors")
    assert_same(safetensors.numpy.load_file(tmp_path / "back.safetensors"), state)


@pytest.mark.quick(2)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("prefix", "rest"), [("", {}), ("", {"epoch": 1}), ("module.", {"it": 2})])
def test_files_as_training_saves_them(
    state: Tensors, tmp_path: Path, tokenizer: str, prefix: str, rest: dict, dtype: type
):
    tensors = {prefix + name: tensor.astype(dtype) for name, tensor in state.items()}
    path = save(tmp_path / "viclip.pth", tensors, **rest)
    converted(path, tmp_path / "model", tokenizer, *HEADS)
    assert read_model_config(tmp_path / "model").source["layout"] == "viclip"
    reverse(tmp_path / "model", tmp_path / "back.safetensors")
    assert_same(safetensors.numpy.load_file(tmp_path / "back.safetensors"), tensors)


def test_orientation_of_the_patch_embedding(state: Tensors, tmp_path: Path, tokenizer: str):
    _, leaves = converted(save(tmp_path / "x.pth", state), tmp_path / "m", tokenizer, *HEADS)
    kernel, published = (
        leaves["visual/patch_embedding/kernel"],
        state["vision_encoder.conv1.weight"],
    )
    np.testing.assert_array_equal(kernel[2, 5, 1], published[:, 1, 0, 2, 5])


def test_temperatures_come_back_within_a_rounding():
    transform = next(rule.transform for rule in VICLIP.rules if rule.source == "temp")
    for value in np.geomspace(1e-4, 10, 999, dtype=np.float32):
        (scale,) = transform.split(np.asarray(value))
        assert scale.dtype == np.float32
        assert scale == pytest.approx(np.log(1 / np.float64(value)), rel=1e-7, abs=1e-7)
        np.testing.assert_allclose(transform.join([scale]), value, rtol=1e-6)


WRONG = {
    r"missing: .*temporal_positional_embedding \(for visual/temporal_embedding\)": {
        "vision_encoder.temporal_positional_embedding": None
    },
    r"missing: temp \(for logit_scale\)": {"temp": None},
    r"unexpected: text_encoder\.more \(\[2\]\)": {"text_encoder.more": np.zeros(2, np.float32)},
    r"wrong_shape: vision_encoder\.conv1\.weight .*a patch is of 3 frames; only kernels over one": {
        "vision_encoder.conv1.weight": np.zeros((64, 3, 3, 16, 16), np.float32)
    },
    r"wrong_shape: vision_encoder\.conv1\.weight .*it must have 5 axes": {
        "vision_encoder.conv1.weight": np.zeros((64, 3, 16, 16), np.float32)
    },
    r"wrong_shape: temp .*the temperature must be > 0, got 0\.0": {
        "temp": np.zeros((), np.float32)
    },
}


@pytest.mark.parametrize("message", WRONG)
def test_what_does_not_fit_is_named(state: Tensors, tmp_path: Path, tokenizer: str, message: str):
    tensors = {k: v for k, v in (state | WRONG[message]).items() if v is not None}
    with pytest.raises(ConversionError, match=message):
        converted(save(tmp_path / "x.pth", tensors), tmp_path / "m", tokenizer, *HEADS)
    assert not (tmp_path / "m").exists()


def test_inflated_kernels(golden: Tensors):
    kernel = golden["conv2d_w"]
    np.testing.assert_array_equal(inflate_kernel(kernel, 3), golden["inflate_center_k3"])
    mean = inflate_kernel(kernel, 3, center=False)
    np.testing.assert_allclose(mean, golden["inflate_mean_k3"], rtol=0, atol=1e-7)
    for center in (True, False):
        inflated = inflate_kernel(kernel, 4, center)
        assert inflated.dtype == np.float32
        np.testing.assert_allclose(inflated.sum(2), kernel, rtol=1e-6)
        np.testing.assert_array_equal(inflate_kernel(kernel, 1, center), kernel[:, :, None])


@pytest.fixture
def clip_file(openai: nn.Module, tmp_path: Path) -> Path:
    """A CLIP with 24 pixels, 9 patches and 12 words, under OpenAI's names."""
    tensors = {k: v.float() for k, v in openai.state_dict().items() if k not in BUFFERS}
    torch.save(tensors, tmp_path / "clip.pt")
    return tmp_path / "clip.pt"


def test_clip_becomes_a_viclip(clip_file: Path, tmp_path: Path, tokenizer: str):
    _, plain = converted(clip_file, tmp_path / "clip", tokenizer, JOINT[0])
    config, joint = converted(clip_file, tmp_path / "viclip", tokenizer, *JOINT)
    assert (config.spec.visual.temporal_frames, config.spec.text.context) == (4, 6)
    assert (config.frame_norm, config.view) == (False, View("segment_middle", 4))
    clip = read_model_config(tmp_path / "clip")
    assert config.preprocessing == clip.preprocessing and config.family == "viclip"
    report = (tmp_path / "viclip/report.txt").read_text()
    assert "frame embeddings: zeros\ntext positions: first of 12\n" in report
    table = joint.pop("visual/temporal_embedding")
    assert table.shape == (4, 128) and not table.any()
    words = joint.pop("text/position_embedding")
    np.testing.assert_array_equal(words, plain.pop("text/position_embedding")[:6])
    assert joint.keys() == plain.keys()
    for path, leaf in joint.items():
        np.testing.assert_array_equal(leaf, plain[path], err_msg=path)


def test_its_frames_and_short_texts_are_the_clips(clip_file: Path, tmp_path: Path, tokenizer: str):
    """With one frame; several frames attend to each other."""
    image = np.random.default_rng(0).normal(size=(2, 1, 24, 24, 3)).astype(np.float32)
    ids = np.array([[1, 7, 99, 0], [1, 99, 0, 0]])

    def run(name: str, video: np.ndarray, *settings: str) -> Any:
        folder = tmp_path / name
        if not folder.exists():
            converted(clip_file, folder, tokenizer, *settings)
        config, params = read_model_folder(folder)
        model = make_model(config.spec, {}, video.shape[1])
        return jax.jit(lambda p: model.apply({"params": p}, video, ids))(params)

    clip, joint = run("clip", image, JOINT[0]), run("viclip", image, *JOINT)
    np.testing.assert_allclose(joint["video"], clip["video"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(joint["text"], clip["text"], rtol=0, atol=1e-6)
    moving = run("viclip", np.concatenate([image, image[::-1]], axis=1))
    assert np.abs(moving["video"] - clip["video"]).max() > 1e-3


def test_a_huggingface_clip_too(clip_folder: Path, tmp_path: Path, tokenizer: str):
    settings = ("visual.temporal_frames=8", "visual.image_size=64", "text.context=5")
    config, leaves = converted(clip_folder, tmp_path / "model", tokenizer, *settings)
    assert (config.spec.visual.image_size, config.spec.visual.temporal_frames) == (64, 8)
    assert leaves["visual/position_embedding"].shape == (17, 64)
    assert leaves["text/position_embedding"].shape == (5, 48)


def test_an_inflated_clip_is_written_as_viclip(clip_file: Path, tmp_path: Path, tokenizer: str):
    _, leaves = converted(clip_file, tmp_path / "model", tokenizer, *JOINT)
    with pytest.raises(ConversionError, match=r"(?s)--family chooses.*visual/temporal_embedding"):
        reverse(tmp_path / "model", tmp_path / "x.safetensors")
    reverse(tmp_path / "model", tmp_path / "viclip.safetensors", family="viclip")
    _, again = converted(tmp_path / "viclip.safetensors", tmp_path / "again", tokenizer)
    assert again.keys() == leaves.keys()
    for path, leaf in leaves.items():
        np.testing.assert_allclose(again[path], leaf, rtol=1e-6 * (path == "logit_scale"))


def test_golden_tables_of_frames_and_places(golden: Tensors):
    table = golden["temporal_pos_in"][0]
    for frames in (12, 16):
        expected = golden[f"temporal_pos_to{frames}"][0]
        np.testing.assert_allclose(resize_temporal(table, frames), expected, rtol=0, atol=1e-6)
    expected = golden["temporal_pos_to4_truncate"][0]
    np.testing.assert_array_equal(resize_temporal(table, 4), expected)
    assert resize_temporal(table, 9).dtype == np.float32
    places = resize_positions(golden["spatial_pos_in"], 5)
    np.testing.assert_allclose(places, golden["spatial_pos_3x3_to_5x5"], rtol=0, atol=1e-6)


def test_other_frames_and_places_of_a_viclip(
    shared: Path, state: Tensors, tmp_path: Path, tokenizer: str
):
    settings = ("visual.temporal_frames=12", "visual.image_size=96")
    folder = golden_viclip.converted(shared, tmp_path / "model", tokenizer, *settings)
    config, params = read_model_folder(folder)
    assert (config.spec.visual.image_size, config.spec.visual.temporal_frames) == (96, 12)
    assert config.preprocessing["crop"] == "none" and config.preprocessing["image_size"] == 96
    table = state["vision_encoder.temporal_positional_embedding"][0]
    visual = params["visual"]
    np.testing.assert_array_equal(visual["temporal_embedding"], resize_temporal(table, 12))
    places = resize_positions(state["vision_encoder.positional_embedding"], 6)
    np.testing.assert_array_equal(visual["position_embedding"], places)
    assert "frame embeddings: resized from 8 frames\n" in (folder / "report.txt").read_text()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("visual.temporal_frames=1", "visual.temporal_frames must be >= 2, got 1"),
        ("text.context=33", "text.context=33: the text tower has positions for 2 to 32 tokens"),
        ("text.context=1", "text.context=1: the text tower"),
        ("visual.image_size=70", "image_size=70: not a multiple"),
    ],
)
def test_sizes_it_cannot_have(
    shared: Path, tmp_path: Path, tokenizer: str, setting: str, message: str
):
    with pytest.raises(ConversionError, match=re.escape(message)):
        golden_viclip.converted(shared, tmp_path / "model", tokenizer, setting)


def test_only_a_clip_without_methods_becomes_one(shared: Path, tmp_path: Path, tokenizer: str):
    path = shared / "golden/btadapter/clip_btadapter_small.safetensors"
    tensors = {
        name: tensor
        for name, tensor in safetensors.numpy.load_file(path).items()
        if name.startswith(("backbone.", "text_backbone.", "extra_proj."))
    }
    file = save(tmp_path / "bt.pth", tensors)
    message = "visual.temporal_frames=8: is for CLIP without methods, this is btadapter"
    with pytest.raises(ConversionError, match=message):
        converted(file, tmp_path / "model", tokenizer, *HEADS, "visual.temporal_frames=8")


def test_a_folder_of_unknown_kind_says_what_to_name(tmp_path: Path, state: Tensors, tokenizer: str):
    (tmp_path / "hf").mkdir()
    save(tmp_path / "hf/pytorch_model.bin", state)
    (tmp_path / "hf/config.json").write_text('{"model_type": "viclip"}')
    with pytest.raises(ConversionError, match="'viclip', not 'clip'; name the weight file"):
        converted(tmp_path / "hf", tmp_path / "model", tokenizer)
    converted(tmp_path / "hf/pytorch_model.bin", tmp_path / "model", tokenizer, *HEADS)
