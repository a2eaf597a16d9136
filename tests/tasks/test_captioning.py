"""Next-word losses by their formula: which words count, and how smoothing is distributed."""

import numpy as np
import pytest

from vlt.tasks.captioning import Captioning, word_losses

# The first token starts a text and 0 pads it; the vocabulary's first and last words occur.
IDS = np.array([[5, 1, 2, 7, 0, 0], [5, 7, 3, 1, 1, 6]])
LOGITS = np.random.default_rng(0).normal(size=(2, 6, 8)).astype(np.float32)


def plain(smoothing: float, prompt: int) -> np.ndarray:
    found = np.zeros((2, 5))
    for row, ids in enumerate(IDS):
        for place in range(1, 6):
            if ids[place] and place >= prompt:
                odds = np.exp(LOGITS[row, place - 1].astype(np.float64))
                surprise = -np.log(odds / odds.sum())
                found[row, place - 1] = (1 - smoothing) * surprise[ids[place]]
                found[row, place - 1] += smoothing * surprise.mean()
    return found


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("prompt", [1, 3])
def test_words_behind_the_prompt_count_and_padding_does_not(smoothing, prompt):
    losses, counted = word_losses(LOGITS, IDS, smoothing, prompt)
    np.testing.assert_allclose(losses, plain(smoothing, prompt), rtol=1e-5)
    np.testing.assert_array_equal(counted, plain(smoothing, prompt) > 0)


def test_a_batch_has_the_mean_over_its_words():
    task = Captioning(label_smoothing=0.1, prompt_length=2)
    value, terms = task.loss(task.features({"logits": LOGITS}, {"text": IDS}))
    assert float(value) == pytest.approx(plain(0.1, 2).sum() / 6, rel=1e-5)
    assert terms == {"caption": value}
