"""The loss terms that methods contribute to."""

import jax.numpy as jnp
import numpy as np
import pytest

from vlt.tasks.retrieval import Retrieval

BATCH = {"text": jnp.arange(6).reshape(3, 2)}


def outputs(**visual):
    rows = jnp.eye(3)
    return {
        "video": rows,
        "text": rows,
        "logit_scale": jnp.float32(0),
        "visual_out": visual,
        "text_out": {},
    }


def test_price_is_the_squared_excess_of_every_sample():
    task = Retrieval({"vtc": 1.0, "diffrate": 0.5}, scale=1.0, mask_duplicates=False)
    features = task.features(outputs(gmacs_excess=jnp.float32(-3.0)), BATCH)
    np.testing.assert_array_equal(features["diffrate"], [9.0, 9.0, 9.0])
    total, terms = task.loss(features)
    assert float(terms["diffrate"]) == 9.0
    assert float(total - terms["vtc"]) == pytest.approx(4.5)


def test_loss_that_no_method_serves():
    task = Retrieval({"diffrate": 1.0}, scale=1.0, mask_duplicates=False)
    with pytest.raises(ValueError, match=r"task.losses.diffrate: no method .* 'gmacs_excess'"):
        task.features(outputs(), BATCH)
