"""Golden numbers of methods that prompt both towers, and the modules that should reproduce them."""

from pathlib import Path

import numpy as np

from vlt.convert import convert, parse_settings
from vlt.model_io.build import make_model
from vlt.model_io.folder import read_model_folder

TOKENIZER = Path(__file__).resolve().parents[1] / "vlt/assets/tiny_clip/tokenizer"


def converted(shared: Path, name: str, folder: Path, *settings: str):
    """A golden file's module, which computes all tokens, with its config and its parameters."""
    source = shared / f"golden/{name}.safetensors"
    convert(source, folder, settings=parse_settings(settings), tokenizer=str(TOKENIZER))
    config, params = read_model_folder(folder)
    frames, norm = config.frames or 2, config.frame_norm
    model = make_model(config.spec, config.methods, frames, cls_only=False, frame_norm=norm)
    return model, config, params


def close(ours, theirs, tolerance: float) -> None:
    """Asserts that no number differs by more than `tolerance`."""
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)
