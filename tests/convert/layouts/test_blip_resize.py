"""Position embeddings resized for other image sizes, with torch's numbers."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from blip_models import HEADS, authors_state, bert_words, blip

from vlt.convert import ConversionError, convert, parse_settings, reverse
from vlt.model_io.folder import read_model_config, read_model_folder
from vlt.models.interpolation import resize_positions


@pytest.mark.parametrize(("old", "new"), [(24, 14), (14, 24), (24, 16), (4, 3)])
def test_golden_numbers(shared: Path, old: int, new: int):
    numbers = np.load(shared / "golden/token_mixing/pos_embed_interp.npz")
    result = resize_positions(numbers[f"in_{old}to{new}"][0], new)
    np.testing.assert_allclose(result, numbers[f"out_{old}to{new}"][0], rtol=0, atol=1e-6)


def test_a_resized_checkpoint(tmp_path: Path):
    words = bert_words(tmp_path / "vocab.txt")
    state = authors_state(blip("captioner"))
    torch.save({"model": state}, tmp_path / "blip.pth")
    settings = parse_settings([*HEADS, "visual.image_size=24"])
    report = convert(tmp_path / "blip.pth", tmp_path / "model", None, settings, words)
    assert "position embedding: resized from 32 pixels\n" in report
    assert "visual: 24 pixels, patch 8" in report
    config, params = read_model_folder(tmp_path / "model")
    assert config.spec.visual.image_size == config.preprocessing["image_size"] == 24
    table = state["visual_encoder.pos_embed"][0].numpy()
    resized = params["visual"]["position_embedding"]
    np.testing.assert_array_equal(resized, resize_positions(table, 3))
    reverse(tmp_path / "model", tmp_path / "back.safetensors")
    back = safetensors.numpy.load_file(tmp_path / "back.safetensors")
    np.testing.assert_array_equal(back["visual_encoder.pos_embed"][0], resized)
    wrong = parse_settings([*HEADS, "visual.image_size=20"])
    with pytest.raises(ConversionError, match="image_size=20: not a multiple of the patches' 8"):
        convert(tmp_path / "blip.pth", tmp_path / "x", None, wrong, words)


def test_a_clip_too(clip_folder: Path, tmp_path: Path, tokenizer: str):
    """A config.json gives the checkpoint's size, not the one that is wanted."""
    settings = parse_settings(["visual.image_size=64"])
    convert(clip_folder, tmp_path / "model", settings=settings, tokenizer=tokenizer)
    config = read_model_config(tmp_path / "model")
    assert config.spec.visual.image_size == config.preprocessing["image_size"] == 64
    assert config.preprocessing["crop"] == "center"
