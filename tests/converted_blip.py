"""Small transformers BLIP models with random weights, beside the same models converted."""

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from blip_models import CONTEXT, ENC, IMAGE, bert_words, blip
from transformers import PreTrainedModel

from vlt.convert import convert
from vlt.model_io.loading import LoadedModel, load_folder
from vlt.models.video_model import VideoModel


def converted(kind: str, folder: Path) -> tuple[PreTrainedModel, LoadedModel]:
    """The torch model, and the model converted from it through files in `folder`."""
    torch.manual_seed(0)
    peer = blip(kind)
    peer.save_pretrained(folder / "hf")
    convert(folder / "hf", folder / "model", tokenizer=bert_words(folder / "vocab.txt"))
    return peer, load_folder(str(folder / "model"))


def videos(batch: int, frames: int, seed: int = 0) -> np.ndarray:
    """Noise, already normalised, [b, t, H, W, 3]."""
    shape = (batch, frames, IMAGE, IMAGE, 3)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def texts(batch: int, length: int = CONTEXT // 2, seed: int = 1, first: int = ENC) -> np.ndarray:
    """Random words after `first`; each text is shorter than the one before, down to two tokens."""
    ids = np.random.default_rng(seed).integers(1, 100, (batch, length)).astype(np.int32)
    ids[:, 0] = first
    for row in range(batch):
        ids[row, max(2, length - 2 * row) :] = 0
    return ids


def apply(loaded: LoadedModel, method: str, *inputs: Any) -> Any:
    """Applies a method of the converted model and returns host arrays."""
    with jax.default_matmul_precision("highest"):
        return jax.device_get(_compiled(loaded.module, method)(loaded.params, *inputs))


@functools.cache
def _compiled(module: VideoModel, method: str) -> Any:
    return jax.jit(lambda params, *x: module.apply({"params": params}, *x, method=method))
