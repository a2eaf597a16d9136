"""Converted models compute what the published ones do: float32, layer by layer."""

from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch_models import randomised
from transformers import CLIPConfig, CLIPModel

from vlt.convert import convert, parse_settings
from vlt.methods import build_methods
from vlt.model_io.folder import ModelConfig, read_model_folder
from vlt.models.dual_encoder import DualEncoder

HIDDEN, EMBEDDING = 2e-5, 1e-5


def _apply(folder: Path, video: np.ndarray, ids: np.ndarray, cls_only: bool = False) -> dict:
    config, params = read_model_folder(folder)
    return _run(config, params, video, ids, cls_only)


def _run(
    config: ModelConfig, params: dict, video: np.ndarray, ids: np.ndarray, cls_only: bool
) -> dict:
    model = DualEncoder(config.spec, build_methods(config.methods), cls_only=cls_only)
    with jax.default_matmul_precision("highest"):
        apply = jax.jit(lambda p, v, i: model.apply({"params": p}, v, i, capture=True))
        return jax.device_get(apply(params, video, ids))


def _inputs(model: CLIPModel, batch: int, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Normalised video [b, t, H, W, 3] and ids [b, l] with EOT at different places."""
    rng = np.random.default_rng(1)
    vision, text = model.config.vision_config, model.config.text_config
    side, length = vision.image_size, text.max_position_embeddings
    video = rng.normal(size=(batch, frames, side, side, 3)).astype(np.float32)
    ids = rng.integers(0, text.vocab_size - 2, (batch, length))
    ids[np.arange(batch), rng.choice(np.arange(2, length), batch)] = text.vocab_size - 1
    return video, ids


def _close(ours: np.ndarray, theirs: torch.Tensor, atol: float, name: str) -> None:
    np.testing.assert_allclose(
        ours.reshape(theirs.shape), theirs.numpy(), rtol=0, atol=atol, err_msg=name
    )


def _assert_parity(model: CLIPModel, folder: Path, batch: int, frames: int) -> None:
    video, ids = _inputs(model, batch, frames)
    out = _apply(folder, video, ids)
    pixels = torch.from_numpy(video.reshape(-1, *video.shape[2:])).permute(0, 3, 1, 2)
    with torch.inference_mode():
        vision = model.vision_model(pixels, output_hidden_states=True)
        text = model.text_model(torch.from_numpy(ids), output_hidden_states=True)
        frame_features = model.visual_projection(vision.pooler_output)
        text_features = model.text_projection(text.pooler_output)
    for ours, theirs, tower in (
        (out["visual_out"], vision.hidden_states, "visual"),
        (out["text_out"], text.hidden_states, "text"),
    ):
        _close(ours["stem"].x, theirs[0], HIDDEN, f"{tower} stem")
        for layer, hidden in enumerate(theirs[1:]):
            _close(ours[f"block_{layer}"].x, hidden, HIDDEN, f"{tower} block {layer}")
    _close(out["visual_out"]["frames"], frame_features, HIDDEN, "frames")
    mean = frame_features.reshape(batch, frames, -1).mean(1)
    unit = torch.nn.functional.normalize
    _close(out["video"], unit(mean, dim=-1), EMBEDDING, "video")
    _close(out["text"], unit(text_features, dim=-1), EMBEDDING, "text")
    assert out["logit_scale"] == model.logit_scale.item()
    read = _apply(folder, video, ids, cls_only=True)
    _close(read["video"], unit(mean, dim=-1), EMBEDDING, "video from CLS alone")


def test_small_shapes(clip: CLIPModel, clip_folder: Path, tmp_path: Path, tokenizer: str):
    convert(clip_folder, tmp_path / "model", tokenizer=tokenizer)
    _assert_parity(clip, tmp_path / "model", batch=3, frames=2)


def test_parity_can_fail(clip: CLIPModel, clip_folder: Path, tmp_path: Path, tokenizer: str):
    """Another activation in the text tower falls far outside the tolerance."""
    convert(clip_folder, tmp_path / "model", tokenizer=tokenizer)
    config, params = read_model_folder(tmp_path / "model")
    fields = config.to_dict()
    fields["spec"]["text"]["activation"] = "gelu"
    video, ids = _inputs(clip, 2, 1)
    out = _run(ModelConfig.from_dict(fields), params, video, ids, cls_only=True)
    with torch.inference_mode():
        hidden = clip.text_model(torch.from_numpy(ids), output_hidden_states=True).hidden_states
    assert np.abs(out["text_out"]["block_2"].x[:, 0] - hidden[-1].numpy()).max() > 10 * HIDDEN


@pytest.mark.slow
def test_full_shape_of_vit_b32(tmp_path: Path, shared: Path):
    text = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
    config = CLIPConfig(text_config=text | {"eos_token_id": 49407}, projection_dim=512)
    torch.manual_seed(0)
    model = randomised(CLIPModel(config), scale=0.01).eval()
    model.save_pretrained(tmp_path / "hf")
    merges = shared / "vocab/bpe_simple_vocab_16e6.txt.gz"
    convert(tmp_path / "hf", tmp_path / "model", tokenizer=str(merges))
    _assert_parity(model, tmp_path / "model", batch=2, frames=2)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["gated", "plain"])
def test_btadapter_embeddings(shared: Path, tmp_path: Path, tokenizer: str, mode: str):
    golden = load_file(shared / "golden/btadapter/clip_btadapter_small.safetensors")
    numbers = np.load(shared / "golden/btadapter/clip_btadapter_small.npz")
    path = tmp_path / "weights.pth"
    tensors = {
        name: torch.from_numpy(tensor)
        for name, tensor in golden.items()
        if mode == "gated" or "balance" not in name
    }
    torch.save({"state_dict": tensors, "meta": {}}, path)
    settings = parse_settings(["visual.heads=4", "text.heads=4"])
    convert(path, tmp_path / "model", settings=settings, tokenizer=tokenizer)
    video = numbers["video"].transpose(0, 1, 3, 4, 2)
    out = _apply(tmp_path / "model", video, numbers["text_ids"])
    features = out["visual_out"]["video_features"]
    np.testing.assert_allclose(features, numbers[f"{mode}/video_emb"], rtol=0, atol=1e-4)
    text = out["text_out"]["text_features"]
    np.testing.assert_allclose(text, numbers["text_emb"], rtol=0, atol=1e-4)
