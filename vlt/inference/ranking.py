"""How likely a chat model finds given answers, to choose among candidates for a question."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from vlt.data.text.choices import Choices
from vlt.data.text.prompts import Turn
from vlt.inference.speech import Speech
from vlt.models.continuation import bucket, padded, read
from vlt.models.likelihood import AT_ONCE, answer_losses

STEP = 8  # tokens by which the lengths of compiled candidates differ


def candidate_losses(
    speech: Speech, params: Any, tokens: jax.Array, question: str, candidates: Sequence[str]
) -> np.ndarray:
    """The negative log-likelihood of each answer to a question about one video, [n] in nats.

    Summed over an answer's tokens and what ends it, not averaged, so that long answers are less
    likely, as in the published code of InstructBLIP (arXiv:2305.06500).

    Args:
        tokens: [1, k, d], the video's.

    Raises:
        ValueError: no candidates, or a prompt that does not fit (`Speech.prompt`).
    """
    if not candidates:
        raise ValueError("no candidates to choose among")
    counts = [tokens.shape[1]]
    found = Choices.of(
        [speech.prompt([Turn(question, text, videos=1)], counts) for text in candidates]
    )
    length = bucket(len(found.ids))
    words, skipped = padded([(found.ids, found.video)], length)
    spare = [
        (0, -size % step) for size, step in zip(found.rest.shape, (AT_ONCE, STEP), strict=True)
    ]
    rest, learned = np.pad(found.rest, spare), np.pad(found.learned, spare)
    reading = read(speech.module, params, words, tokens, skipped, length + rest.shape[1])
    losses = [
        answer_losses(speech.module, params, reading, rest[None, some], learned[None, some])[0]
        for some in (slice(at, at + AT_ONCE) for at in range(0, len(rest), AT_ONCE))
    ]
    return np.concatenate(losses)[: len(candidates)]
