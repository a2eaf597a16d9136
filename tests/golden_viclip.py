"""The small ViCLIP of the golden numbers, converted."""

from pathlib import Path

import numpy as np
import safetensors.numpy

from vlt.convert import convert, parse_settings

HEADS = ("visual.heads=4", "text.heads=4")


def state(shared: Path) -> dict[str, np.ndarray]:
    """Tensors by published name."""
    return safetensors.numpy.load_file(_file(shared))


def numbers(shared: Path) -> dict[str, np.ndarray]:
    """What the published modules output; videos are [b, t, H, W, 3]."""
    golden = dict(np.load(shared / "golden/viclip/golden.npz"))
    for name in ("video", "image"):
        golden[name] = golden[name].transpose(0, 1, 3, 4, 2)
    return golden


def converted(shared: Path, folder: Path, tokenizer: str, *settings: str) -> Path:
    """The new model folder."""
    options = parse_settings([*HEADS, *settings])
    convert(_file(shared), folder, settings=options, tokenizer=tokenizer)
    return folder


def _file(shared: Path) -> Path:
    return shared / "golden/viclip/state_dict.safetensors"
