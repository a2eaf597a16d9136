"""Answering questions about videos: BLIP's loss over the answer's words."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax

from vlt.tasks.captioning import word_losses
from vlt.tasks.task import Batch, Features, Task, Terms

DENOMINATORS = ("videos", "frames")


@dataclasses.dataclass(frozen=True)
class QuestionAnswering(Task):
    """Cross-entropy summed over an answer's words, times its weight, mean over questions.

    label_smoothing: as in `Captioning`. answer_weight: weight of each question's one answer (Token
    Mixing: 0.2). denominator: `videos`, as in BLIP, or `frames`: Token Mixing's published code
    divides by the number of all frames, which makes the same loss t times smaller.
    """

    model_inputs: ClassVar[tuple[str, ...]] = ("video", "question", "answer")

    label_smoothing: float = 0.1
    answer_weight: float = 0.2
    denominator: str = "videos"

    def __post_init__(self) -> None:
        if self.denominator not in DENOMINATORS:
            raise ValueError(
                f"unknown task.denominator: {self.denominator!r}; choose from "
                f"{', '.join(DENOMINATORS)}"
            )

    def features(self, outputs: Mapping[str, Any], batch: Batch) -> Features:
        """Weighted loss of each answer, [b]."""
        losses, _ = word_losses(outputs["logits"], batch["answer"], self.label_smoothing, 1)
        frames = batch["video"].shape[1] if self.denominator == "frames" else 1
        return {"losses": self.answer_weight * losses.sum(-1) / frames}

    def loss(self, features: Features) -> tuple[jax.Array, Terms]:
        """Mean over the batch."""
        value = features["losses"].mean()
        return value, {"answer": value}
