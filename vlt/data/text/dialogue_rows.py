"""Dialogues as rows to train on: ids, and which of them a model learns to write."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vlt.data.text.chat_tokenizer import Prompt

NO_LABEL = -100  # label of a token that is given, not learned


class DialogueRows(NamedTuple):
    """Rows of b dialogues, padded at the end, int32 [b, l] each.

    ids: 0 in the padding. labels: the id of each token of an answer, and of what ends it; else
    `NO_LABEL`. mask: 1 on the dialogue, 0 after it. video: as in `Prompt`.
    """

    ids: np.ndarray
    labels: np.ndarray
    mask: np.ndarray
    video: np.ndarray


def training_rows(
    prompts: Sequence[Prompt], names: Sequence[str], longest: int = 2048
) -> DialogueRows:
    """Rows padded to the length of the longest; what lies beyond `longest` is cut off.

    names: the dialogues' names, for messages.

    Raises:
        ValueError: a row has no token to learn, or a video's tokens are cut.
    """
    for prompt, name in zip(prompts, names, strict=True):
        _check(prompt, name, longest)
    length = min(max(map(len, prompts)), longest)
    rows = DialogueRows(
        *(np.full((len(prompts), length), fill, np.int32) for fill in (0, NO_LABEL, 0, -1))
    )
    for row, prompt in enumerate(prompts):
        kept = slice(min(len(prompt), length))
        rows.ids[row, kept] = prompt.ids[kept]
        rows.labels[row, kept] = np.where(prompt.answer, prompt.ids, NO_LABEL)[kept]
        rows.mask[row, kept] = 1
        rows.video[row, kept] = prompt.video[kept]
    return rows


def _check(prompt: Prompt, name: str, longest: int) -> None:
    if (prompt.video[longest:] >= 0).any():
        raise ValueError(
            f"{name}: its {len(prompt)} tokens are cut to {longest}, and the video's among them"
        )
    if not prompt.answer[:longest].any():
        cut = f"; its {len(prompt)} tokens are cut to {longest}" * (len(prompt) > longest)
        raise ValueError(f"{name}: no token of the dialogue is of an answer to learn from{cut}")
