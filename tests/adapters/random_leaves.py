"""Random leaves, each large enough to matter."""

import jax
import numpy as np

from vlt.model_io.build import abstract_params
from vlt.models.video_model import VideoModel


def random_params(model: VideoModel) -> dict:
    """Draws every leaf with deviation 0.4, scales around one and the rest around zero."""
    rng = np.random.default_rng(1)
    return jax.tree_util.tree_map_with_path(
        lambda path, x: (
            0.4 * rng.normal(size=x.shape).astype("f") + ("scale" in jax.tree_util.keystr(path))
        ),
        abstract_params(model),
    )
