"""Questions as a Q-Former reads them (InstructBLIP, arXiv:2305.06500, section 2.3)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlt.data.text.prompts import VIDEO, Turn
from vlt.data.text.tokenize import pretrained

INSTRUCTION = 128  # most tokens that are read of a question, its last ones
STEP = 16  # row lengths are multiples of this many tokens


class Instructions:
    """Turns questions into ids of a Q-Former's tokenizer."""

    def __init__(self, words: Path, vocab: int, length: int = 0):
        """words: the tokenizer's folder. length: of a row; 0 for the longest's, in steps of `STEP`.

        Raises:
            ValueError: there is no such folder, or its tokenizer does not have `vocab` words.
        """
        if not words.is_dir():
            raise ValueError(
                f"{words}: the Q-Former reads questions, and its tokenizer is not there"
            )
        self._encoder: Any = pretrained(words, local_files_only=True)
        self._length = length
        if len(self._encoder) != vocab:
            raise ValueError(
                f"{words}: {len(self._encoder)} words; the Q-Former has {vocab} embeddings"
            )

    def __call__(self, questions: Sequence[str]) -> np.ndarray:
        """Ids int32 [b, l], padded with 0; a question that is too long keeps [CLS] and its end."""
        most = min(INSTRUCTION, self._length or INSTRUCTION)
        rows = [self._encoder(question)["input_ids"] for question in questions]
        rows = [row if len(row) <= most else [row[0], *row[len(row) - most + 1 :]] for row in rows]
        length = self._length or -(-max(map(len, rows)) // STEP) * STEP
        ids = np.zeros((len(rows), length), np.int32)
        for row, found in zip(ids, rows, strict=True):
            row[: len(found)] = found
        return ids

    def of_dialogues(self, dialogues: Sequence[Sequence[Turn]]) -> np.ndarray:
        """Ids of the question that holds each dialogue's video; those of '' if it has no turns.

        A video is read once, so later questions find what the first one asked for.
        """
        return self([_instruction(turns) for turns in dialogues])


def _instruction(turns: Sequence[Turn]) -> str:
    """The question that holds the video, without the mark of its place."""
    asked = [turn.question for turn in turns if turn.videos]
    return asked[0].replace(VIDEO, "").strip() if asked else ""
