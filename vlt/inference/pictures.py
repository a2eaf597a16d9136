"""A picture as a video that shows nothing else, as a model sees it."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from vlt.data.video.containers import check_size
from vlt.data.video.errors import CannotOpen, VideoError
from vlt.data.video.transform import apply_transform
from vlt.inference.prefetch import clip_request
from vlt.model_io.folder import ModelConfig

MOVING = ("GIF", "PNG")  # formats that are read as videos where they hold several pictures


def still(config: ModelConfig, source: str | Path | BinaryIO, name: str) -> np.ndarray:
    """Frames [t, H, W, 3], as many as the model takes, upright as the picture's EXIF data say.

    name: the source's name in messages.

    Raises:
        CannotOpen: the source is missing, or is not a picture, or one that moves.
        WrongFrames: the picture is too large.
    """
    look = clip_request(config, name)
    try:
        with Image.open(source) as image:
            check_size(name, image.height, image.width)
            if image.format in MOVING and getattr(image, "is_animated", False):
                raise CannotOpen(name, "is not one picture: it moves, as a video does")
            frame = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except VideoError:
        raise
    except Exception as error:  # Pillow's readers raise errors of any type for damaged files
        raise CannotOpen(name, f"cannot be read as a picture: {error}") from error
    seen = apply_transform(look.transform, frame[None], look.seed)
    return np.repeat(seen, look.frames, axis=0)
