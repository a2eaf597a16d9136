"""A picture as a model sees a video that shows nothing else."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from vlt.data.errors import CannotOpen
from vlt.data.transform import apply_transform
from vlt.inference.prefetch import clip_request
from vlt.model_io.folder import ModelConfig


def still(config: ModelConfig, source: str | Path | BinaryIO, name: str) -> np.ndarray:
    """Frames [t, H, W, 3], as many as the model takes. name: of the source, in messages.

    Raises:
        CannotOpen: no picture, or none that is there.
    """
    look = clip_request(config, name)
    try:
        with Image.open(source) as image:
            frame = np.asarray(image.convert("RGB"))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise CannotOpen(name, f"cannot be read as a picture: {error}") from error
    return apply_transform(look.transform, np.stack([frame] * look.frames), look.seed)
