"""Which methods of the one table of text-video retrieval can see the order of frames."""

import jax
import numpy as np
import pytest

from configs.retrieval_table import ROWS
from vlt.configuration import apply_overrides, load_config
from vlt.model_io.build import abstract_params, build_model
from vlt.tasks.twins import twin_accuracy

ORDER = np.random.default_rng(1).permutation(8)


@pytest.mark.quick(1)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_rows_that_cannot_see_the_order_of_frames_have_every_twin_tied(row):
    """At random weights, so by construction; the others tell two orders apart."""
    config = apply_overrides(load_config("configs/tempme.py"), row.changes)
    config.model.checkpoint = ""
    model = build_model(config.model)
    rng = np.random.default_rng(0)
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: (
            0.4 * rng.normal(size=x.shape).astype("f") + ("scale" in jax.tree_util.keystr(path))
        ),
        abstract_params(model),
    )
    video = rng.normal(size=(1, 8, 32, 32, 3)).astype(np.float32)
    videos = np.concatenate([video, video[:, ::-1], video[:, ORDER]])

    def encode(params, videos):
        return model.apply({"params": params}, videos, method="encode_video")[0]

    with jax.default_matmul_precision("highest"):
        forth, back, other = np.asarray(jax.jit(encode)(params, videos))
    gap = max(np.abs(forth - back).max(), np.abs(forth - other).max())
    if row.sees_order:
        assert gap > 1e-4
        return
    assert gap < 1e-6
    texts = rng.normal(size=(2, len(forth)))
    texts /= np.linalg.norm(texts, axis=-1, keepdims=True)
    scores = np.stack([forth, back]) @ texts.T
    assert twin_accuracy(scores[None], ["any"])["twins_v2t"] == 50
