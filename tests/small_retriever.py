"""A retriever as small as can be, and batches for it."""

import dataclasses
from typing import Any

import jax
import numpy as np

from vlt.model_io.build import init_params
from vlt.models.retriever import Retriever
from vlt.models.spec import BertSpec, BlipSpec, VisionSpec

VISUAL = VisionSpec(8, 4, 16, 1, 2, 32, "gelu", 1e-6, False, True, projection_bias=True)
TEXT = BertSpec(6, 20, 16, 1, 2, 32, 16, decode_id=18, encode_id=19, end_id=2, dropout=0.0)
SPEC = BlipSpec("retriever", VISUAL, TEXT, embed_dim=8)


def retriever(dropout: float = 0.0) -> Retriever:
    """A retriever with one vision layer and one text layer."""
    return Retriever(dataclasses.replace(SPEC, text=dataclasses.replace(TEXT, dropout=dropout)))


def params(model: Retriever, seed: int = 0) -> dict[str, Any]:
    """Random parameters, large enough for embeddings of different inputs to differ clearly."""
    start = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    rng = np.random.default_rng(seed)

    def leaf(path: tuple, x: Any) -> np.ndarray:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name == "temperature":
            return np.float32(0.2)
        return (rng.normal(0, 0.4, x.shape) + name.endswith("scale")).astype(np.float32)

    return jax.tree_util.tree_map_with_path(leaf, start)


def batch(size: int = 8, seed: int = 0) -> dict[str, np.ndarray]:
    """Videos of 3 frames and padded texts; samples 0 and 1 name one video."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(3, 18, (size, 6)).astype(np.int32)
    ids[:, 0], ids[::2, 4:] = 1, 0
    video = rng.integers(0, 255, (size, 3, 8, 8, 3), dtype=np.uint8)
    video[1] = video[0]
    return {"video": video, "text": ids, "video_id": np.maximum(np.arange(size), 1, dtype=np.int32)}
