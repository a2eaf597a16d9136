"""Dialogues about videos as rows of ids, for the batches of a chat model."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlt.data.chat_tokenizer import ChatTokenizer, Prompt
from vlt.data.dialogue_rows import NO_LABEL, training_rows
from vlt.data.prompts import VIDEO, Piece, Turn, render, template

VIDEO_SLOT = -1  # of a chat model's ids, see `vlt.models.chat`


class ChatBatches:
    """Dialogues to padded ids, by one template, for a model that reads `slots` tokens of a video.

    Attributes:
        context: length of a row. size: number of ids that there are.
    """

    def __init__(self, tokenizer: ChatTokenizer, used: str, spacing: str, slots: int, context: int):
        """used: a name of `vlt.data.prompts.TEMPLATES`. spacing: of `vlt.data.chat_tokenizer`.

        Raises ValueError for an unknown template.
        """
        self.context, self.size = context, tokenizer.size
        self._tokenizer, self._template = tokenizer, template(used)
        self._spacing, self._slots = spacing, slots

    @classmethod
    def load(
        cls, folder: str | os.PathLike[str], used: str, spacing: str, slots: int, context: int
    ) -> "ChatBatches":
        """Of a folder's tokenizer. Raises as `ChatTokenizer.load`, and for an unknown template."""
        return cls(ChatTokenizer.load(folder), used, spacing, slots, context)

    def entries(
        self, texts: Mapping[str, Sequence[Any]], rows: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Of a batch's `turns`, or `question` and `answer`, what its `text` and `labels` are.

        rows: which they are of, for messages.
        """
        dialogues = texts.get("turns") or [
            [Turn(*pair, videos=1)] if all(pair) else []
            for pair in zip(texts["question"], texts["answer"], strict=True)
        ]
        text, labels = self(dialogues, rows)
        return {"text": text, "labels": labels}

    def __call__(
        self, dialogues: Sequence[Sequence[Turn]], rows: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids int32 [b, context] with VIDEO_SLOT where tokens of videos stand and 0 at the end, and
        labels [b, context] as of `DialogueRows`; of a dialogue without turns nothing but padding.

        A longer dialogue is cut behind.

        Raises:
            ValueError: what `render`, `encode` and `training_rows` raise of a dialogue.
        """
        ids = np.zeros((len(dialogues), self.context), np.int32)
        labels = np.full_like(ids, NO_LABEL)
        spoken = [row for row, turns in enumerate(dialogues) if turns]
        if not spoken:
            return ids, labels
        prompts = [self._prompt(dialogues[row]) for row in spoken]
        found = training_rows(prompts, [rows[row] for row in spoken], self.context)
        width = found.ids.shape[1]
        ids[spoken, :width] = np.where(found.video < 0, found.ids, VIDEO_SLOT)
        labels[spoken, :width] = found.labels
        return ids, labels

    def _prompt(self, turns: Sequence[Turn]) -> Prompt:
        pieces = render(self._template, turns)
        videos = [self._slots] * sum(piece == Piece(VIDEO, token=True) for piece in pieces)
        return self._tokenizer.encode(pieces, self._template, videos, self._spacing)
