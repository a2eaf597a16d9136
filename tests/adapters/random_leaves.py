"""Random leaves, large enough for every one of them to matter."""

import jax
import numpy as np

from vlt.model_io.build import abstract_params
from vlt.models.video_model import VideoModel


def random_params(model: VideoModel) -> dict:
    """Every leaf of deviation 0.4, scales around one."""
    rng = np.random.default_rng(1)
    return jax.tree_util.tree_map_with_path(
        lambda path, x: (
            0.4 * rng.normal(size=x.shape).astype("f") + ("scale" in jax.tree_util.keystr(path))
        ),
        abstract_params(model),
    )
