"""What a Q-Former reads of a question (InstructBLIP, arXiv:2305.06500, section 2.3)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlt.data.prompts import VIDEO, Turn
from vlt.data.tokenize import pretrained

INSTRUCTION = 128  # tokens that are read of a question, the last ones
STEP = 16  # tokens from one length of rows to the next


class Instructions:
    """Questions to ids of a Q-Former's tokenizer."""

    def __init__(self, words: Path, vocab: int, length: int = 0):
        """words: folder of the tokenizer. length: of a row; 0: as long as the longest, in `STEP`s.

        Raises:
            ValueError: no such folder, or a tokenizer of another number of words than `vocab`.
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
        """Ids int32 [b, l], 0 behind the end; of a longer question its end, behind [CLS]."""
        most = min(INSTRUCTION, self._length or INSTRUCTION)
        rows = [self._encoder(question)["input_ids"] for question in questions]
        rows = [row if len(row) <= most else [row[0], *row[len(row) - most + 1 :]] for row in rows]
        length = self._length or -(-max(map(len, rows)) // STEP) * STEP
        ids = np.zeros((len(rows), length), np.int32)
        for row, found in zip(ids, rows, strict=True):
            row[: len(found)] = found
        return ids

    def of_dialogues(self, dialogues: Sequence[Sequence[Turn]]) -> np.ndarray:
        """Ids of the question that shows each dialogue's video; of one without turns those of ''.

        A video is read once, so that later questions find what the first one asked for.
        """
        return self([_instruction(turns) for turns in dialogues])


def _instruction(turns: Sequence[Turn]) -> str:
    """The question that has the video, without the place where it says that."""
    asked = [turn.question for turn in turns if turn.videos]
    return asked[0].replace(VIDEO, "").strip() if asked else ""
