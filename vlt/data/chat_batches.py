"""Dialogues about videos as rows of ids, for the batches of a chat model."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlt.data.text.chat_tokenizer import ChatTokenizer, Prompt
from vlt.data.text.choices import Choices
from vlt.data.text.dialogue_rows import NO_LABEL, training_rows
from vlt.data.text.instructions import Instructions
from vlt.data.text.prompts import VIDEO, Piece, Turn, render, template

VIDEO_SLOT = -1  # stands for a token of the video


class ChatBatches:
    """Turns dialogues into padded ids, by one template; a video has `slots` tokens.

    Attributes:
        context: length of a row. size: size of the vocabulary. instructions: as given.
        template: that of the dialogues. tokenizer: as given.
    """

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        used: str,
        spacing: str,
        slots: int,
        context: int,
        instructions: Instructions | None = None,
    ):
        """used: a key of `vlt.data.text.prompts.TEMPLATES`. spacing: one of `SPACINGS` in
        `vlt.data.text.chat_tokenizer`. instructions: for a Q-Former that reads questions.

        Raises ValueError for an unknown template.
        """
        self.context, self.size = context, tokenizer.size
        self.tokenizer, self.template = tokenizer, template(used)
        self._spacing, self._slots, self.instructions = spacing, slots, instructions

    def entries(
        self, texts: Mapping[str, Sequence[Any]], rows: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """A batch's `text` and `labels`, made from its `turns` or its `question` and `answer`, and
        its `instruction` where a Q-Former reads one.

        rows: names of the rows, for messages.
        """
        dialogues = texts.get("turns") or [
            [Turn(*pair, videos=1)] if all(pair) else []
            for pair in zip(texts["question"], texts["answer"], strict=True)
        ]
        text, labels = self(dialogues, rows)
        found = {"text": text, "labels": labels}
        if self.instructions is not None:
            found["instruction"] = self.instructions.of_dialogues(dialogues)
        return found

    def __call__(
        self, dialogues: Sequence[Sequence[Turn]], rows: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids int32 [b, context], VIDEO_SLOT for each token of a video and 0 for padding at the
        end, and labels [b, context] as in `DialogueRows`; a dialogue without turns is all padding.

        A dialogue longer than the context is cut at its end.

        Raises:
            ValueError: as `render`, `encode` and `training_rows` raise it.
        """
        return self._filled([self._prompt(turns) if turns else None for turns in dialogues], rows)

    def speaking(self, used: str) -> "ChatBatches":
        """A copy that uses another template, or itself for ''."""
        given = (self._spacing, self._slots, self.context, self.instructions)
        return ChatBatches(self.tokenizer, used, *given) if used else self

    def questions(self, asked: Sequence[str], rows: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Prompts that ask for answers, two arrays int32 [b, n]: ids, padded with 0 in front, and
        the index of the video's token at each place, -1 for a word, -2 for padding.

        Raises:
            ValueError: a prompt leaves no room in the context; `rows` name it in the message.
        """
        prompts = [self._prompt([Turn(question, videos=1)]) for question in asked]
        longest = max(map(len, prompts))
        for prompt, row in zip(prompts, rows, strict=True):
            if len(prompt) >= self.context:
                raise ValueError(
                    f"{row}: a prompt of {len(prompt)} tokens; model.context={self.context} must "
                    "be more"
                )
        ids = np.zeros((len(prompts), longest), np.int32)
        video = np.full_like(ids, -2)
        for place, prompt in enumerate(prompts):
            ids[place, longest - len(prompt) :] = prompt.ids
            video[place, longest - len(prompt) :] = prompt.video
        return ids, video

    def choices(self, question: str, answers: Sequence[str], row: str) -> Choices:
        """A question about a video with each of the answers to choose from.

        Raises:
            ValueError: one of them does not fit in the context; `row` names the question.
        """
        return Choices.of([self._whole(question, answer, row) for answer in answers])

    def answered(
        self, asked: Sequence[str], answers: Sequence[str], rows: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Questions about a video with their answers, as dialogues, none of which is cut.

        Raises:
            ValueError: one does not fit in the context; `rows` name it.
        """
        return self._filled([self._whole(*x) for x in zip(asked, answers, rows, strict=True)], rows)

    def _filled(
        self, prompts: Sequence[Prompt | None], rows: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids and labels as in `__call__`; None is all padding."""
        ids = np.zeros((len(prompts), self.context), np.int32)
        labels = np.full_like(ids, NO_LABEL)
        spoken = [row for row, prompt in enumerate(prompts) if prompt is not None]
        if not spoken:
            return ids, labels
        found = training_rows(
            [prompt for prompt in prompts if prompt is not None],
            [rows[row] for row in spoken],
            self.context,
        )
        width = found.ids.shape[1]
        ids[spoken, :width] = np.where(found.video < 0, found.ids, VIDEO_SLOT)
        labels[spoken, :width] = found.labels
        return ids, labels

    def _whole(self, question: str, answer: str, row: str) -> Prompt:
        prompt = self._prompt([Turn(question, answer, videos=1)])
        if len(prompt) > self.context:
            raise ValueError(
                f"{row}: with its answer, {len(prompt)} tokens; model.context={self.context}"
            )
        return prompt

    def _prompt(self, turns: Sequence[Turn]) -> Prompt:
        pieces = render(self.template, turns)
        videos = [self._slots] * sum(piece == Piece(VIDEO, token=True) for piece in pieces)
        return self.tokenizer.encode(pieces, self.template, videos, self._spacing)
