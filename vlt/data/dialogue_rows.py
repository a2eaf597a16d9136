"""Dialogues as rows to train on: ids, and which of them a model learns to write."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vlt.data.chat_tokenizer import ChatTokenizer, Prompt
from vlt.data.prompts import Template, Turn, render

VIDEO_SLOT = -1  # in a batch, of a token of the video
NO_LABEL = -100  # of a token that is given, not learned


class DialogueRows(NamedTuple):
    """Of b dialogues, padded behind, int32 [b, l].

    ids: 0 where padded. labels: the id of each token of an answer, and of what ends it; else
    `NO_LABEL`. mask: 1 on the dialogue, 0 behind it. video: as `Prompt` has it.
    """

    ids: np.ndarray
    labels: np.ndarray
    mask: np.ndarray
    video: np.ndarray


def training_rows(
    prompts: Sequence[Prompt], names: Sequence[str], longest: int = 2048
) -> DialogueRows:
    """Rows as long as the longest of them, the others padded; what is beyond `longest` is cut off.

    names: of the dialogues, for messages.

    Raises:
        ValueError: no token of a row is learned, or a video's tokens are cut.
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


@dataclasses.dataclass(frozen=True)
class DialogueTokenizer:
    """Dialogues about a video of so many tokens to ids, as one template has them in training.

    context: length of a row.
    """

    tokenizer: ChatTokenizer
    template: Template
    video_tokens: int
    context: int

    def __call__(
        self, dialogues: Sequence[Sequence[Turn]], names: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """`text` and `labels` of a batch, int32 [b, context]; `VIDEO_SLOT` where the video stands.

        Raises:
            ValueError: as `training_rows`, or what is no text.
        """
        counts = [self.video_tokens]
        prompts = [
            self.tokenizer.encode(render(self.template, turns), self.template, counts)
            for turns in dialogues
        ]
        rows = training_rows(prompts, names, self.context)
        wide = ((0, 0), (0, self.context - rows.ids.shape[1]))
        text = np.where(rows.video >= 0, np.int32(VIDEO_SLOT), rows.ids)
        return {
            "text": np.pad(text, wide),
            "labels": np.pad(rows.labels, wide, constant_values=NO_LABEL),
        }


def _check(prompt: Prompt, name: str, longest: int) -> None:
    if (prompt.video[longest:] >= 0).any():
        raise ValueError(
            f"{name}: its {len(prompt)} tokens are cut to {longest}, and the video's among them"
        )
    if not prompt.answer[:longest].any():
        cut = f"; its {len(prompt)} tokens are cut to {longest}" * (len(prompt) > longest)
        raise ValueError(f"{name}: no token of the dialogue is of an answer to learn from{cut}")
