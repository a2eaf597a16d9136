"""Sizes that are inferred from the leaves of a model."""

import numpy as np
import pytest

from vlt.convert.layouts.families import FAMILIES
from vlt.convert.tables.sizes import infer_spec


def leaves(vision: int, text: int) -> dict[str, np.ndarray]:
    """Leaves of both towers' widths, without values."""
    shapes = {
        "visual/patch_embedding/kernel": (14, 14, 3, vision),
        "visual/position_embedding": (257, vision),
        "visual/pre_norm/scale": (vision,),
        "text/position_embedding": (77, text),
        "text/token_embedding/embedding": (49408, text),
        "text/final_norm/scale": (text,),
    }
    return {path: np.broadcast_to(np.float32(0), shape) for path, shape in shapes.items()}


@pytest.mark.parametrize("family", ["open_clip", "clip_hf"])
@pytest.mark.parametrize(
    ("vision", "text", "heads"),
    [
        (768, 512, (12, 8)),  # ViT-B/32
        (1024, 768, (16, 12)),  # ViT-L/14
        (1280, 1024, (16, 16)),  # ViT-H/14
        (1408, 1024, (16, 16)),  # ViT-g/14
        (1664, 1280, (16, 20)),  # ViT-bigG/14
    ],
)
def test_heads_of_published_clips(family, vision, text, heads):
    activations = dict.fromkeys(("visual.activation", "text.activation"), "gelu")
    spec, _ = infer_spec(leaves(vision, text), FAMILIES[family], activations)
    assert (spec.visual.heads, spec.text.heads) == heads
