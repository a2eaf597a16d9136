"""Conversation about videos: predicts the assistant's next word (LLaVA, section 4.2)."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vlt.data.text.dialogue_rows import NO_LABEL
from vlt.tasks.task import Batch, Features, Task, Terms


@dataclasses.dataclass(frozen=True)
class Conversation(Task):
    """Mean cross-entropy of a batch's labelled tokens, each predicted from those before it.

    A batch has ids `text` [b, l], with `VIDEO_SLOT` where tokens of the video stand, and `labels`
    [b, l]: the same ids where the assistant speaks, and `NO_LABEL` elsewhere. instructed: whether
    it also has ids `instruction` [b, l], which the Q-Former reads (InstructBLIP).
    """

    loss_inputs: ClassVar[tuple[str, ...]] = ("labels",)

    instructed: bool = False

    @property
    def model_inputs(self) -> tuple[str, ...]:  # type: ignore[override]
        """`video`, `text`, and `instruction` where there is one."""
        return ("video", "text", "instruction") if self.instructed else ("video", "text")

    def numbers(self, size: int, context: int) -> dict[str, np.ndarray]:
        """Labels of placeholder samples: every token has one."""
        return {"labels": np.ones((size, context), np.int32)}

    def features(self, outputs: Mapping[str, Any], batch: Batch) -> Features:
        """Summed loss and number of labelled tokens of each conversation, [b]."""
        labels = batch["labels"][:, 1:]
        counted = labels != NO_LABEL
        losses = optax.softmax_cross_entropy_with_integer_labels(
            outputs["logits"][:, :-1], jnp.where(counted, labels, 0)
        )
        return {
            "losses": jnp.where(counted, losses, 0.0).sum(-1),
            "words": counted.sum(-1).astype(jnp.float32),
        }

    def loss(self, features: Features) -> tuple[jax.Array, Terms]:
        """Mean over all labelled tokens of the batch."""
        value = features["losses"].sum() / features["words"].sum()
        return value, {"conversation": value}
