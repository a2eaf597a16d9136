"""ViCLIP's layout: OpenAI's names in two encoders, and a temperature beside them.

Published files hold it bare or as `model`; training saves it with the prefix `module.` or as
`module`.
"""

import numpy as np

from vlt.convert.layouts.clip import openai_text, openai_vision
from vlt.convert.tables.family import Family
from vlt.convert.tables.table import CONV, FIRST_OF_2, Rule, Transform
from vlt.model_io.view import View

# ImageNet's statistics, not CLIP's, and frames resized to a square.
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "crop": "none"}


def inflate_kernel(kernel: np.ndarray, frames: int, center: bool = True) -> np.ndarray:
    """Extends a kernel [out, in, p, p] to `frames` frames, [out, in, frames, p, p].

    center: the middle frame (the later of two) gets the whole kernel and the others zeros; else
    each frame gets an equal part. On a still video both compute what the kernel does on one frame.
    """
    if not center:
        return np.repeat(kernel[:, :, None] / np.asarray(frames, kernel.dtype), frames, axis=2)
    inflated = np.zeros((*kernel.shape[:2], frames, *kernel.shape[2:]), kernel.dtype)
    inflated[:, :, frames // 2] = kernel
    return inflated


def _of_one_frame(kernel: np.ndarray) -> list[np.ndarray]:
    if kernel.shape[2] != 1:
        raise ValueError(
            f"a patch is of {kernel.shape[2]} frames; only kernels over one frame can be converted"
        )
    return CONV.split(kernel[:, :, 0])


def _to_scale(temperature: np.ndarray) -> list[np.ndarray]:
    if not temperature > 0:
        raise ValueError(f"the temperature must be > 0, got {temperature}")
    return [np.asarray(-np.log(temperature.astype(np.float64)), np.float32)]


def _to_temperature(parts: list[np.ndarray]) -> np.ndarray:
    return np.asarray(np.exp(-parts[0].astype(np.float64)), np.float32)


TUBELET = Transform(
    "OIFHW of 1 frame -> HWIO", 5, _of_one_frame, lambda parts: inflate_kernel(CONV.join(parts), 1)
)
# In float64, rounded to float32 both ways: a round trip returns the temperature within 1e-6, not
# bit for bit.
_TEMPERATURE = Transform("ln(1 / t)", 0, _to_scale, _to_temperature)

VICLIP = Family(
    name="viclip",
    sign=r"^(module\.)?vision_encoder\.(conv1|transformer)\.",
    renames=((r"^module\.", ""),),
    model="viclip",
    view=View("viclip_middle"),
    pixels=IMAGENET,
    rules=(
        *openai_vision("vision_encoder.", TUBELET),
        Rule(
            "vision_encoder.temporal_positional_embedding",
            ("visual/temporal_embedding",),
            FIRST_OF_2,
        ),
        *openai_text("text_encoder."),
        Rule("temp", ("logit_scale",), _TEMPERATURE),
    ),
)
