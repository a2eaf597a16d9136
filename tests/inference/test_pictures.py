"""Pictures as a model sees them, and what is none."""

import io

import numpy as np
import pytest
from PIL import Image

from vlt.data.video.errors import CannotOpen, WrongFrames
from vlt.inference.pictures import still
from vlt.model_io.folder import ModelConfig
from vlt.models.sizes import SIZES

PIXELS = {"image_size": 32, "mean": [0.5] * 3, "std": [0.5] * 3}
CONFIG = ModelConfig("clip", SIZES["clip_b16"], {}, PIXELS | {"crop": "center"}, frames=3)


def written(image, kind, **options):
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content


def halves():
    """Red above blue."""
    image = np.zeros((64, 64, 3), np.uint8)
    image[:32, :, 0] = image[32:, :, 2] = 255
    return Image.fromarray(image)


def test_a_picture_is_shown_upright_in_every_frame():
    plain = still(CONFIG, written(halves(), "PNG"), "a")
    assert plain.shape == (3, 32, 32, 3) and (plain == plain[0]).all()
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    turned = written(halves().rotate(180), "PNG", exif=exif)
    np.testing.assert_array_equal(still(CONFIG, turned, "a"), plain)


def test_what_moves_is_left_to_the_reader_of_videos():
    others = {"save_all": True, "append_images": [halves().rotate(90)]}
    for kind in ("GIF", "PNG"):
        with pytest.raises(CannotOpen, match="a.gif: is not one picture: it moves"):
            still(CONFIG, written(halves(), kind, **others), "a.gif")
        assert still(CONFIG, written(halves(), kind), "a").shape == (3, 32, 32, 3)


def test_too_large_a_picture_is_not_read():
    with pytest.raises(WrongFrames, match=r"9,000 x 9,000 pixels; at most 67,108,864 are read"):
        still(CONFIG, written(Image.new("1", (9000, 9000)), "PNG"), "a")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "DDS", "ICNS", "AVIF", "TIFF", "WEBP"])
def test_a_damaged_picture_is_told(kind):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    try:
        content = written(Image.fromarray(noise), kind).getvalue()
    except (KeyError, OSError):
        pytest.skip(f"this Pillow writes no {kind}")
    for size in (8, 40, len(content) // 3, len(content) // 2):
        with pytest.raises(CannotOpen, match="a: cannot be read as a picture"):
            still(CONFIG, io.BytesIO(content[:size]), "a")
