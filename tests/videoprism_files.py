"""The small VideoPrism of the golden numbers: its authors' .npz, and as transformers saves it."""

import json
import shutil
from pathlib import Path

import numpy as np
import siglip_files

VOCABULARY, SIDE = 200, 24
VISION = {
    "image_size": SIDE,
    "num_frames": 4,
    "tubelet_size": [1, 6, 6],
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "num_spatial_layers": 3,
    "num_temporal_layers": 2,
    "num_auxiliary_layers": 2,
}
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
}


def npz(shared: Path) -> Path:
    """The golden weights in the authors' layout."""
    return shared / "golden/videoprism/lvt_small.npz_layout.npz"


def tokenizer(folder: Path) -> str:
    """A tokenizer with as many words as the text tower; T5's words for gaps come last."""
    return str(siglip_files.single_pieces(folder, VOCABULARY))


def folder(shared: Path, target: Path) -> Path:
    """The same weights as transformers saves them, with a tokenizer."""
    tokenizer(target)
    weights = shared / "golden/videoprism/lvt_small.hf.safetensors"
    shutil.copy(weights, target / "model.safetensors")
    fields = {"model_type": "videoprism", "vision_config": VISION, "text_config": TEXT}
    (target / "config.json").write_text(json.dumps(fields))
    return target


def numbers(shared: Path) -> dict[str, np.ndarray]:
    """What the authors' modules output."""
    return dict(np.load(shared / "golden/videoprism/lvt_small.npz"))
