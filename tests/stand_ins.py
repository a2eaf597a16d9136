"""Small files under the names that the documents use: checkpoints as published, videos, lists."""

import csv
import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys
from functools import partial
from typing import Any

import annotation_stand_ins
import jax
import numpy as np
import torch
from blip_models import authors_state, blip
from flax import traverse_util
from helpers import environment
from safetensors.torch import load_file
from transformers import CLIPConfig, CLIPModel

from vlt.convert import random_checkpoint
from vlt.convert.layouts.families import FAMILIES
from vlt.convert.tables.table import to_tensors
from vlt.data.text.tokenize import write_clip_tokenizer
from vlt.model_io.build import init_params, make_model
from vlt.models.sizes import SIZES
from vlt.models.spec import DualEncoderSpec

WIDTH = 64  # width of one of CLIP's heads
CLIPS = 8
MERGES = "bpe_simple_vocab_16e6.txt.gz"
# These manifests all list the same few clips.
MANIFESTS = (
    "my/videos", "my/held_out", "data/msrvtt/train_9k", "data/msrvtt/test_1ka",
    "data/webvid2m/train",
)  # fmt: skip


def make(folder: pathlib.Path, shared: pathlib.Path) -> None:
    """Fills the folder. shared: holds the vocabularies, which are of the published size."""
    shutil.copy(shared / "vocab" / MERGES, folder)
    words = folder / "bert-base-uncased"  # found as a folder, not as a name on the hub
    words.mkdir()
    shutil.copy(shared / "vocab/bert_base_uncased_vocab.txt", words / "vocab.txt")
    _checkpoints(folder)
    _manifests(folder)


def _checkpoints(folder: pathlib.Path) -> None:
    _save(folder / "ViT-L-14.pt", "openai", narrow("clip_l14", layers=5))
    for name in ("viclip_b16.pth", "ViCLIP-B_InternVid-FLT-10M.pth"):
        _save(folder / name, "viclip", narrow("viclip_b16"))
    _save(folder / "ViT-B-32.pt", "openai", narrow("clip_b32"))
    _save(folder / "ViT-B-16.pt", "openai", narrow("clip_b16"))
    for name in ("laion400m_laclip_vitb16.pt", "b16_400m.pt"):
        _save(folder / name, "open_clip", narrow("clip_b16"))
    umt: Any = narrow("umt_b16_pretraining")
    text = dataclasses.replace(umt.text, source_width=WIDTH)
    _save(folder / "b16_25m.pth", "umt", dataclasses.replace(umt, text=text))
    _save(folder / "eva_clip_psz14.pt", "btadapter_eva", narrow("eva_clip_g", layers=2))
    _save_adapter(folder / "FILE", narrow("clip_l14", layers=5))
    for name, size in (("path/to/clip-vit-large-patch14", 14), ("clip-vit-base-patch32", 32)):
        _huggingface(folder / name, size)
        write_clip_tokenizer(folder / MERGES, folder / "tokenizer", 77)
        shutil.copytree(folder / "tokenizer", folder / name, dirs_exist_ok=True)
        shutil.rmtree(folder / "tokenizer")
    for name, kind, layers in (
        ("model_base_caption_capfilt_large", "captioner", 12),
        ("model_large_caption", "captioner", 24),
        ("model_base_retrieval_coco", "retriever", 12),
        ("model_large_retrieval_coco", "retriever", 24),
    ):
        torch.save({"model": _blip(kind, layers)}, folder / f"{name}.pth")


def narrow(size: str, layers: int = 12) -> DualEncoderSpec:
    """A published size with few channels and layers."""
    spec: Any = SIZES[size]
    sizes = {"width": WIDTH, "heads": 1, "mlp_width": 4 * WIDTH, "layers": layers}
    return dataclasses.replace(
        spec,
        visual=dataclasses.replace(spec.visual, **sizes),
        text=dataclasses.replace(spec.text, **sizes),
        embed_dim=WIDTH,
    )


def _save(file: pathlib.Path, family: str, spec: DualEncoderSpec) -> None:
    """Saves random weights under the family's names."""
    whole = file.with_suffix(".safetensors")
    random_checkpoint(spec, whole, family)
    tensors = load_file(whole)
    whole.unlink()
    if family == "openai":  # tells its weights from open_clip's
        tensors["input_resolution"] = torch.tensor(spec.visual.image_size)
    torch.save(tensors, file)


def _save_adapter(file: pathlib.Path, spec: DualEncoderSpec) -> None:
    """Saves a BT-Adapter's leaves alone."""
    model = make_model(spec, {"btadapter": {}}, frames=8)
    params = jax.device_get(jax.jit(partial(init_params, model))(jax.random.key(1)))
    tensors, _ = to_tensors(
        FAMILIES["btadapter"].rules, traverse_util.flatten_dict(params, sep="/")
    )
    own = {name: x for name, x in tensors.items() if "btadapter" in name or "balance" in name}
    torch.save({name: torch.from_numpy(np.array(x)) for name, x in own.items()}, file)


def _huggingface(folder: pathlib.Path, patch: int) -> None:
    sizes = {"hidden_size": WIDTH, "num_attention_heads": 1, "intermediate_size": 4 * WIDTH}
    vision = sizes | {"num_hidden_layers": 12, "patch_size": patch}
    text = sizes | {"num_hidden_layers": 2, "eos_token_id": 49407}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH)
    CLIPModel(config).save_pretrained(folder)


def _blip(kind: str, layers: int) -> dict[str, torch.Tensor]:
    """A BLIP with the published image size, vocabulary and context, under the authors' names."""
    sizes = {"hidden_size": WIDTH, "num_attention_heads": 1, "intermediate_size": 4 * WIDTH}
    vision = sizes | {"num_hidden_layers": layers, "image_size": 384, "patch_size": 16}
    text = sizes | {"vocab_size": 30524, "bos_token_id": 30522, "encoder_hidden_size": WIDTH}
    text["max_position_embeddings"] = 512
    return authors_state(blip(kind, vision_config=vision, text_config=text))


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
    clips = [pathlib.Path(row["video"]) for row in rows]
    annotation_stand_ins.make(folder, clips, [row["caption"] for row in rows])
    predictions = {str(i): row["caption"] for i, row in enumerate(rows)}
    (folder / "PREDICTIONS.json").write_text(json.dumps(predictions))
    references = {i: [text] for i, text in predictions.items()}
    (folder / "REFERENCES.json").write_text(json.dumps(references))
