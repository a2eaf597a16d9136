"""Dialogues about videos as rows of ids, for the batches of a chat model."""

import os
import threading
from collections.abc import Mapping, Sequence

import numpy as np
from absl import logging

from vlt.data.chat_tokenizer import ChatTokenizer
from vlt.data.prompts import VIDEO, Piece, Turn, render, template

VIDEO_SLOT = -1  # of a chat model's ids, see `vlt.models.chat`
IGNORED = -100  # label of a token that is not learned, see `vlt.tasks.conversation`


class ChatBatches:
    """Dialogues to padded ids, by one template, for a model that reads `slots` tokens of a video.

    Attributes:
        context: length of a row. size: number of ids that there are.
        cut: how many dialogues so far were longer than the context.
    """

    def __init__(self, tokenizer: ChatTokenizer, used: str, spacing: str, slots: int, context: int):
        """used: a name of `vlt.data.prompts.TEMPLATES`. spacing: of `vlt.data.chat_tokenizer`.

        Raises ValueError for an unknown template.
        """
        self.context, self.size, self.cut = context, tokenizer.size, 0
        self._tokenizer, self._template = tokenizer, template(used)
        self._spacing, self._slots = spacing, slots
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls, folder: str | os.PathLike[str], used: str, spacing: str, slots: int, context: int
    ) -> "ChatBatches":
        """Of a folder's tokenizer. Raises as `ChatTokenizer.load`, and for an unknown template."""
        return cls(ChatTokenizer.load(folder), used, spacing, slots, context)

    def entries(self, texts: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
        """Of a batch's `question` and `answer`, what its `text` and `labels` are."""
        asked = zip(texts["question"], texts["answer"], strict=True)
        text, labels = self([[Turn(*pair, videos=1)] for pair in asked])
        return {"text": text, "labels": labels}

    def __call__(self, dialogues: Sequence[Sequence[Turn]]) -> tuple[np.ndarray, np.ndarray]:
        """Ids int32 [b, context] with VIDEO_SLOT where tokens of videos stand and 0 at the end, and
        labels [b, context]: the same of answers, and IGNORED.

        A longer dialogue is cut behind; a row of padding is one that says nothing.

        Raises:
            ValueError: what `render` and `encode` raise of a dialogue, or no answer within the
                context.
        """
        ids = np.zeros((len(dialogues), self.context), np.int32)
        labels = np.full_like(ids, IGNORED)
        for row, turns in enumerate(dialogues):
            if not any(turn.question or turn.answer for turn in turns):
                continue
            pieces = render(self._template, turns)
            videos = [self._slots] * sum(piece == Piece(VIDEO, token=True) for piece in pieces)
            prompt = self._tokenizer.encode(pieces, self._template, videos, self._spacing)
            length = self._fitted(len(prompt))
            ids[row, :length] = np.where(prompt.video < 0, prompt.ids, VIDEO_SLOT)[:length]
            spoken = prompt.answer[:length]
            labels[row, :length][spoken] = prompt.ids[:length][spoken]
            if not spoken.any():
                raise ValueError(
                    f"no word of an answer lies within the first {self.context} of "
                    f"{len(prompt)} tokens of {turns[0].question[:80]!r}; fewer frames or a larger "
                    "model.context would make room"
                )
        return ids, labels

    def _fitted(self, length: int) -> int:
        if length <= self.context:
            return length
        with self._lock:
            self.cut += 1
        if self.cut == 1:
            logging.warning(
                "a dialogue of %d tokens was cut to %d (told once)", length, self.context
            )
        return self.context
