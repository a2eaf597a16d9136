"""Which methods of the one table of text-video retrieval can see the order of frames."""

import numpy as np
import pytest
from frame_order import in_three_orders

from configs.retrieval_table import ROWS
from vlt.configuration import apply_overrides, load_config
from vlt.tasks.twins import twin_accuracy


@pytest.mark.quick(1)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_rows_that_cannot_see_the_order_of_frames_have_every_twin_tied(row):
    """At random weights, so by construction; the others tell two orders apart."""
    config = apply_overrides(load_config("configs/tempme.py"), row.changes)
    forth, back, other = in_three_orders(config)
    gap = max(np.abs(forth - back).max(), np.abs(forth - other).max())
    if row.sees_order:
        assert gap > 1e-4
        return
    assert gap < 1e-6
    texts = np.random.default_rng(2).normal(size=(2, len(forth)))
    texts /= np.linalg.norm(texts, axis=-1, keepdims=True)
    scores = np.stack([forth, back]) @ texts.T
    assert twin_accuracy(scores[None], ["any"])["twins_v2t"] == 50
