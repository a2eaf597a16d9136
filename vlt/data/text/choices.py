"""A question with several answers to choose from, of which only the answers differ."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vlt.data.text.chat_tokenizer import Prompt


class Choices(NamedTuple):
    """What k dialogues share at their beginning, and how each goes on.

    ids, video: int32 [n] each, as in `Prompt`. rest: int32 [k, l], 0 after the end of each.
    learned: bool [k, l], whether the token belongs to an answer or ends one.
    """

    ids: np.ndarray
    video: np.ndarray
    rest: np.ndarray
    learned: np.ndarray

    @classmethod
    def of(cls, prompts: Sequence[Prompt]) -> "Choices":
        """Splits dialogues that differ in their last answer."""
        shared = _shared(prompts)
        length = max(map(len, prompts)) - shared
        rest, learned = np.zeros((len(prompts), length), np.int32), np.zeros((len(prompts), length))
        for row, prompt in enumerate(prompts):
            left = len(prompt) - shared
            rest[row, :left], learned[row, :left] = prompt.ids[shared:], prompt.answer[shared:]
        first = prompts[0]
        return cls(first.ids[:shared], first.video[:shared], rest, learned.astype(bool))


def _shared(prompts: Sequence[Prompt]) -> int:
    """The number of tokens with which all prompts begin, before the first one of any answer."""
    least = min(int(prompt.answer.argmax()) for prompt in prompts)
    heads = np.stack([prompt.ids[:least] for prompt in prompts])
    differ = (heads != heads[0]).any(0)
    return int(differ.argmax()) if differ.any() else least
