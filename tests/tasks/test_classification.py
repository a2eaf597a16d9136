"""Classification by a layer with weights for each class, against the definitions in numpy."""

import numpy as np
import pytest

from vlt.tasks.classification import Classification


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_cross_entropy_and_accuracy_the_share_of_right_classes(smoothing):
    logits = np.random.default_rng(0).normal(0, 2, (6, 4)).astype(np.float32)
    best = logits.argmax(-1)
    label = np.where(np.arange(6) < 4, best, (best + 1) % 4)
    loss, terms = Classification(4, smoothing).loss({"logits": logits, "label": label})
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    target = (1 - smoothing) * np.eye(4)[label] + smoothing / 4
    assert float(terms["accuracy"]) == pytest.approx(4 / 6)
    assert float(loss) == pytest.approx(-(target * logs).sum(-1).mean(), rel=1e-5)
    assert loss == terms["cross_entropy"]


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_shares_out_of_bounds(share):
    with pytest.raises(ValueError, match=r"task.label_smoothing=.*: must be >= 0 and < 1"):
        Classification(4, share)
