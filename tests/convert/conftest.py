"""Published checkpoints with random weights, made on the spot."""

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
from helpers import NO_TORCH

if TYPE_CHECKING:
    from torch import nn
    from transformers import CLIPModel


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a tokenizer of seven tokens."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokens = ["a", "b", "a</w>", "b</w>", "ab</w>", "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "CLIPTokenizer"}')
    return str(folder)


@pytest.fixture(scope="session")
def clip() -> "CLIPModel":
    """A CLIP whose every tensor differs from its initial value."""
    return torch_models().random_clip()


@pytest.fixture(scope="session")
def clip_folder(clip: "CLIPModel", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `clip`, as transformers saves it."""
    folder = tmp_path_factory.mktemp("hf")
    clip.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def openai() -> "nn.Module":
    """A model with the tensor names of OpenAI's CLIP, at half precision."""
    models = torch_models()
    return models.randomised(models.OpenAIClip()).half().eval()


def torch_models() -> ModuleType:
    """The module of torch models; skips the test where torch is not installed."""
    pytest.importorskip("torch", reason=NO_TORCH)
    return importlib.import_module("torch_models")
