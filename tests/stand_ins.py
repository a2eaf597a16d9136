"""Small files under the names that the documents use: checkpoints as published, videos, lists."""

import csv
import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import torch
from blip_models import authors_state, blip
from helpers import environment
from safetensors.torch import load_file
from transformers import CLIPConfig, CLIPModel

from vlt.convert import random_checkpoint
from vlt.data.tokenize import write_clip_tokenizer
from vlt.models.spec import SIZES, DualEncoderSpec

WIDTH = 64  # one head of CLIP's
CLIPS = 8
MERGES = "bpe_simple_vocab_16e6.txt.gz"
# Rows of these lists are the same few clips.
MANIFESTS = (
    "my/videos", "my/held_out", "data/msrvtt/train_9k", "data/msrvtt/test_1ka",
    "data/webvid2m/train",
)  # fmt: skip


def make(folder: pathlib.Path, shared: pathlib.Path) -> None:
    """Fills the folder. shared: has the vocabularies, which are no smaller than published."""
    shutil.copy(shared / "vocab" / MERGES, folder)
    words = folder / "bert-base-uncased"  # as a folder, not as a name on the hub
    words.mkdir()
    shutil.copy(shared / "vocab/bert_base_uncased_vocab.txt", words / "vocab.txt")
    _checkpoints(folder)
    _manifests(folder)


def _checkpoints(folder: pathlib.Path) -> None:
    _save(folder / "ViT-L-14.pt", "openai", narrow("clip_l14", layers=5))
    _save(folder / "viclip_b16.pth", "viclip", narrow("viclip_b16"))
    for name, size in (("path/to/clip-vit-large-patch14", 14), ("clip-vit-base-patch32", 32)):
        _huggingface(folder / name, size)
        write_clip_tokenizer(folder / MERGES, folder / "tokenizer", 77)
        shutil.copytree(folder / "tokenizer", folder / name, dirs_exist_ok=True)
        shutil.rmtree(folder / "tokenizer")
    torch.save({"model": _blip()}, folder / "model_base_caption_capfilt_large.pth")


def narrow(size: str, layers: int = 12) -> DualEncoderSpec:
    """A published size of few channels and layers."""
    spec: Any = SIZES[size]
    sizes = {"width": WIDTH, "heads": 1, "mlp_width": 4 * WIDTH, "layers": layers}
    return dataclasses.replace(
        spec,
        visual=dataclasses.replace(spec.visual, **sizes),
        text=dataclasses.replace(spec.text, **sizes),
        embed_dim=WIDTH,
    )


def _save(file: pathlib.Path, family: str, spec: DualEncoderSpec) -> None:
    """Random weights under the family's names."""
    whole = file.with_suffix(".safetensors")
    random_checkpoint(spec, whole, family)
    tensors = load_file(whole)
    whole.unlink()
    if family == "openai":  # by which its weights are told from open_clip's
        tensors["input_resolution"] = torch.tensor(spec.visual.image_size)
    torch.save(tensors, file)


def _huggingface(folder: pathlib.Path, patch: int) -> None:
    sizes = {"hidden_size": WIDTH, "num_attention_heads": 1, "intermediate_size": 4 * WIDTH}
    vision = sizes | {"num_hidden_layers": 12, "patch_size": patch}
    text = sizes | {"num_hidden_layers": 2, "eos_token_id": 49407}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH)
    CLIPModel(config).save_pretrained(folder)


def _blip() -> dict[str, torch.Tensor]:
    """A captioner of BLIP's own image size and vocabulary, under the authors' names."""
    sizes = {"hidden_size": WIDTH, "num_attention_heads": 1, "intermediate_size": 4 * WIDTH}
    vision = sizes | {"num_hidden_layers": 12, "image_size": 384, "patch_size": 16}
    text = sizes | {"vocab_size": 30524, "bos_token_id": 30522, "encoder_hidden_size": WIDTH}
    return authors_state(blip("captioner", vision_config=vision, text_config=text))


def _manifests(folder: pathlib.Path) -> None:
    command = [sys.executable, "-m", "data_pipelines.moving_shapes", "--out=my", f"--count={CLIPS}"]
    subprocess.run(command, cwd=folder, env=environment(1), check=True, capture_output=True)
    lines = (folder / "my/manifest.jsonl").read_text().splitlines()
    rows = [
        {"video": str(folder / "my" / row["video"]), "caption": row["caption"]}
        for row in map(json.loads, lines)
    ]
    for name in MANIFESTS:
        file = folder / f"{name}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("train", "test"):
        with (folder / f"my/{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["video", "label"])
            writer.writerows([row["video"], f"class {i % 2}"] for i, row in enumerate(rows))
    for i, row in enumerate(rows):
        place = folder / f"classes/class {i % 2}"
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(row["video"], place)
    predictions = {str(i): row["caption"] for i, row in enumerate(rows)}
    (folder / "PREDICTIONS.json").write_text(json.dumps(predictions))
    references = {i: [text] for i, text in predictions.items()}
    (folder / "REFERENCES.json").write_text(json.dumps(references))
