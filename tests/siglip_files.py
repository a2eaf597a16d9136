"""The small SigLIP 2 of the golden numbers, and tiny tokenizers of SigLIP's two kinds."""

import json
import shutil
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

LETTERS = "▁abcdefghijklmnopqrstuvwxyz.ABC"


def bytes_and_letters(folder: Path, size: int = 300) -> Path:
    """A byte-pair tokenizer with byte fallback, as Gemma's, of a class that lower-cases nothing."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    pieces = [*special, *(f"<0x{i:02X}>" for i in range(256)), *LETTERS]
    pieces += [f"<unused{i}>" for i in range(size - len(pieces))]
    ids = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(ids, [], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    tokenizer.add_special_tokens(special)
    return _written(folder, tokenizer, "GemmaTokenizer", "<eos>", "<pad>")


def single_pieces(folder: Path, size: int = 300) -> Path:
    """A unigram tokenizer, as T5's, which pads with the token that ends a text."""
    pieces = ["<pad>", "</s>", "<unk>", *LETTERS]
    pieces += [f"<extra{i}>" for i in range(size - len(pieces))]
    scores = [(piece, 0.0 if i < 3 else -1.0 - i / 99) for i, piece in enumerate(pieces)]
    tokenizer = Tokenizer(models.Unigram(scores, 2, False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    return _written(folder, tokenizer, "SiglipTokenizer", "</s>", "</s>")


def _written(folder: Path, tokenizer: Tokenizer, kind: str, end: str, pad: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": kind, "eos_token": end, "pad_token": pad, "padding_side": "left"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def npz(shared: Path) -> Path:
    """The golden weights in the authors' layout."""
    return shared / "golden/siglip2/siglip2_small.bigvision.npz"


def folder(shared: Path, target: Path) -> Path:
    """The same weights as transformers saves them, with a tokenizer and a processor."""
    golden = shared / "golden/siglip2"
    bytes_and_letters(target)
    shutil.copy(golden / "siglip2_small.config.json", target / "config.json")
    shutil.copy(golden / "siglip2_small.safetensors", target / "model.safetensors")
    half, side = [0.5] * 3, {"height": 56, "width": 56}
    pixels = {"image_mean": half, "image_std": half, "resample": 2, "size": side}
    (target / "preprocessor_config.json").write_text(json.dumps(pixels))
    return target


def numbers(shared: Path) -> dict[str, np.ndarray]:
    """What transformers' model outputs; videos and pictures are [b, t, H, W, 3]."""
    golden = dict(np.load(shared / "golden/siglip2/siglip2_small.npz"))
    for name in ("video", "image", "image_resized_input"):
        picture = np.moveaxis(golden[name], -3, -1)
        golden[name] = picture if picture.ndim == 5 else picture[:, None]
    return golden | {"text_ids": golden["text_ids"].astype(np.int32)}
