"""Converted BLIPs match transformers' and Token Mixing's, in float32 and layer by layer.

The retriever's scores are compared in the tests of that model.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from blip_models import DEC, SEP, WORDS, bert_words, blip
from safetensors.numpy import load_file
from transformers import BlipConfig, BlipForConditionalGeneration, PreTrainedModel

from vlt.convert import convert, parse_settings
from vlt.model_io.build import make_model
from vlt.model_io.folder import ModelConfig, read_model_folder
from vlt.models.sizes import SIZES
from vlt.tasks.captioning import word_losses

HIDDEN, LOGITS, LOSS = 2e-5, 2e-5, 1e-5
FRAMES = 2


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    return bert_words(tmp_path_factory.mktemp("words") / "vocab.txt")


@pytest.fixture(scope="module")
def captioner() -> PreTrainedModel:
    return blip("captioner")


@pytest.fixture(scope="module")
def folder(captioner: PreTrainedModel, words: str, tmp_path_factory) -> Path:
    work = tmp_path_factory.mktemp("blip")
    captioner.save_pretrained(work / "hf")
    convert(work / "hf", work / "model", tokenizer=words)
    return work / "model"


def _run(config: ModelConfig, params: Any, video: np.ndarray, ids: np.ndarray) -> dict[str, Any]:
    model = make_model(config.spec, config.methods, video.shape[1])
    with jax.default_matmul_precision("highest"):
        apply = jax.jit(lambda p, v, i: model.apply({"params": p}, v, i, capture=True))
        return jax.device_get(apply(params, video, ids))


def _video(side: int, batch: int = 2) -> np.ndarray:
    shape = (batch, FRAMES, side, side, 3)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def _captions(batch: int = 2) -> np.ndarray:
    """[DEC], words, [SEP] and padding, of different lengths."""
    ids = np.zeros((batch, 9), np.int32)
    for row, length in zip(ids, (9, 6), strict=True):
        row[:length] = np.random.default_rng(length).integers(104, WORDS, length)
        row[0], row[length - 1] = DEC, SEP
    return ids


def _pixels(video: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(video.reshape(-1, *video.shape[2:])).permute(0, 3, 1, 2)


def _close(ours: np.ndarray, theirs: torch.Tensor, atol: float, name: str = "") -> None:
    theirs = theirs.numpy()
    np.testing.assert_allclose(ours.reshape(theirs.shape), theirs, rtol=0, atol=atol, err_msg=name)


def _decoded(
    model: PreTrainedModel, tokens: torch.Tensor, ids: np.ndarray, prompt_length: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and loss of transformers' decoder for tokens [b, m, d]."""
    text = torch.from_numpy(ids).long()
    labels = text.masked_fill(text == 0, -100)
    labels[:, :prompt_length] = -100
    out = model.text_decoder(
        text,
        attention_mask=(text > 0).long(),
        encoder_hidden_states=tokens,
        labels=labels,
        reduction="mean",
    )
    return out.logits, out.loss


def test_vision_tower_and_decoder(captioner: PreTrainedModel, folder: Path):
    video, ids = _video(32), _captions()
    out = _run(*read_model_folder(folder), video, ids)
    with torch.inference_mode():
        vision = captioner.vision_model(_pixels(video), output_hidden_states=True)
        tokens = vision.last_hidden_state.reshape(len(video), -1, 32)
        logits, loss = _decoded(captioner, tokens, ids)
        _, prompted = _decoded(captioner, tokens, ids, prompt_length=3)
    hidden, ours = vision.hidden_states, out["visual_out"]
    assert len(hidden) == 4
    _close(ours["stem"].x, hidden[0], HIDDEN, "stem")
    for layer, theirs in enumerate(hidden[1:]):
        _close(ours[f"block_{layer}"].x, theirs, HIDDEN, f"block {layer}")
    _close(out["tokens"], tokens, HIDDEN, "tokens")
    words = ids > 0  # nothing reads what follows padding
    _close(out["logits"][words], logits[torch.from_numpy(words)], LOGITS)
    for prompt_length, theirs in ((1, loss), (3, prompted)):
        losses, counted = word_losses(out["logits"], ids, 0.1, prompt_length)
        _close(np.asarray(losses.sum() / counted.sum()), theirs, LOSS)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("tower", "changes", "layer"),
    [
        ("visual", {"norm_eps": 1e-5}, "tokens"),
        ("visual", {"activation": "quick_gelu"}, "tokens"),
        ("text", {"norm_eps": 1e-5}, "logits"),
        ("text", {"activation": "quick_gelu"}, "logits"),
    ],
)
def test_parity_can_fail(
    folder: Path, captioner: PreTrainedModel, tower: str, changes: dict[str, Any], layer: str
):
    """transformers' own defaults give results far outside the tolerances."""
    config, params = read_model_folder(folder)
    spec = config.spec
    wrong = dataclasses.replace(getattr(spec, tower), **changes)
    config = dataclasses.replace(config, spec=dataclasses.replace(spec, **{tower: wrong}))
    video, ids = _video(32), _captions()
    out = _run(config, params, video, ids)
    with torch.inference_mode():
        tokens = captioner.vision_model(_pixels(video)).last_hidden_state.reshape(2, -1, 32)
        logits, _ = _decoded(captioner, tokens, ids)
    theirs = {"tokens": tokens, "logits": logits}[layer].numpy()
    assert np.abs(out[layer] - theirs).max() > 3 * max(HIDDEN, LOGITS)


@pytest.mark.slow
def test_another_image_size(captioner: PreTrainedModel, tmp_path: Path, words: str):
    captioner.save_pretrained(tmp_path / "hf")
    settings = parse_settings(["visual.image_size=56"])
    convert(tmp_path / "hf", tmp_path / "model", settings=settings, tokenizer=words)
    video, ids = _video(56), _captions()
    out = _run(*read_model_folder(tmp_path / "model"), video, ids)
    with torch.inference_mode():
        vision = captioner.vision_model(_pixels(video), interpolate_pos_encoding=True)
        tokens = vision.last_hidden_state.reshape(2, -1, 32)
        logits, _ = _decoded(captioner, tokens, ids)
    _close(out["tokens"], tokens, HIDDEN)
    _close(out["logits"][ids > 0], logits[torch.from_numpy(ids > 0)], LOGITS)


@pytest.mark.slow
def test_full_shape_of_base(tmp_path: Path, shared: Path):
    """Weights for 384 pixels, converted for 224 pixels."""
    explicit = {
        "vision_config": {"layer_norm_eps": 1e-6},
        "text_config": {"num_attention_heads": 12, "hidden_dropout_prob": 0.1},
    }
    torch.manual_seed(0)
    model = BlipForConditionalGeneration(BlipConfig(**explicit)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01 * torch.randn(parameter.shape)
    model.save_pretrained(tmp_path / "hf")
    words = str(shared / "vocab/bert_base_uncased_vocab.txt")
    settings = parse_settings(["visual.image_size=224"])
    convert(tmp_path / "hf", tmp_path / "model", settings=settings, tokenizer=words)
    config, params = read_model_folder(tmp_path / "model")
    assert config.spec == SIZES["blip_b16_captioner"]
    video, ids = _video(224, batch=2), _captions()
    ids[:, 0] = config.spec.text.decode_id
    out = _run(config, params, video, ids)
    with torch.inference_mode():
        vision = model.vision_model(_pixels(video), interpolate_pos_encoding=True)
        tokens = vision.last_hidden_state.reshape(2, -1, 768)
        logits, _ = _decoded(model, tokens, ids)
    _close(out["tokens"], tokens, HIDDEN)
    _close(out["logits"][ids > 0], logits[torch.from_numpy(ids > 0)], LOGITS)


@pytest.fixture(scope="module")
def golden(shared: Path, tmp_path_factory) -> tuple[dict[str, np.ndarray], Path]:
    """Golden numbers of Token Mixing's captioner, and its converted weights."""
    work = tmp_path_factory.mktemp("golden")
    source = shared / "golden/token_mixing/captioner.safetensors"
    settings = parse_settings(["visual.heads=4", "text.heads=4", "token_mixing.layers=11"])
    convert(
        source, work / "model", settings=settings, tokenizer=bert_words(work / "vocab.txt", 198)
    )
    numbers = np.load(shared / "golden/token_mixing/captioner.npz")
    return dict(numbers), work / "model"


@pytest.mark.slow
def test_token_mixing_captioner(golden):
    numbers, folder = golden
    config, params = read_model_folder(folder)
    video, ids = numbers["video"].transpose(0, 1, 3, 4, 2), numbers["input_ids"].astype(np.int32)
    out = _run(config, params, video, ids)
    np.testing.assert_allclose(out["tokens"], numbers["encoder_tokens"], rtol=0, atol=2e-5)
    words = numbers["attention_mask"] > 0
    np.testing.assert_allclose(out["logits"][words], numbers["logits"][words], rtol=0, atol=2e-5)
    for prompt_length in (1, 3):
        losses, counted = word_losses(out["logits"], ids, 0.1, prompt_length)
        theirs = numbers[f"loss_prompt_len{prompt_length}"]
        np.testing.assert_allclose(losses.sum() / counted.sum(), theirs, rtol=0, atol=1e-5)
    losses, _ = word_losses(out["logits"], ids, 0.1, 1)
    sums = numbers["loss_none_per_sample_prompt_len1"]
    np.testing.assert_allclose(losses.sum(-1), sums, rtol=0, atol=5e-5)


def test_token_mixing_is_not_in_the_names(golden, shared: Path):
    """The same weights also run without the method, and give other tokens."""
    numbers, folder = golden
    config, params = read_model_folder(folder)
    assert config.methods == {"token_mixing": {"layers": [11]}}
    tensors = load_file(shared / "golden/token_mixing/captioner.safetensors")
    assert set(config.source["dtypes"]) | {*config.source["aliases"]} == {
        name for name in tensors if "position_ids" not in name
    }
    video, ids = numbers["video"].transpose(0, 1, 3, 4, 2), numbers["input_ids"].astype(np.int32)
    out = _run(dataclasses.replace(config, methods={}), params, video, ids)
    assert np.abs(out["tokens"] - numbers["encoder_tokens"]).max() > 1e-3
