"""A picture as a video that shows nothing else, as a model sees it."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from vlt.data.video.errors import CannotOpen
from vlt.data.video.transform import apply_transform
from vlt.inference.prefetch import clip_request
from vlt.model_io.folder import ModelConfig


def still(config: ModelConfig, source: str | Path | BinaryIO, name: str) -> np.ndarray:
    """Frames [t, H, W, 3], as many as the model takes. name: the source's name in messages.

    Raises:
        CannotOpen: the source is missing, or is not a picture.
    """
    look = clip_request(config, name)
    try:
        with Image.open(source) as image:
            frame = np.asarray(image.convert("RGB"))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise CannotOpen(name, f"cannot be read as a picture: {error}") from error
    return apply_transform(look.transform, np.stack([frame] * look.frames), look.seed)
