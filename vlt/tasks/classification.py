"""Classification by a layer with weights for each class, on top of a vision tower alone."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vlt.models.video_model import VideoModel
from vlt.tasks import losses
from vlt.tasks.task import Batch, Features, Task, Terms


@dataclasses.dataclass(frozen=True, eq=False)
class Classification(Task):
    """Softmax cross-entropy of a probe's logits (`vlt.adapters.attention_probe`).

    classes: number of classes trained on, 0 where that is not known. label_smoothing: share of the
    target that is spread over all classes.

    Raises:
        ValueError: a share out of bounds.
    """

    classes: int = 0
    label_smoothing: float = 0.0

    model_inputs: ClassVar[tuple[str, ...]] = ("video",)
    loss_inputs: ClassVar[tuple[str, ...]] = ("label",)

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"task.label_smoothing={self.label_smoothing}: must be >= 0 and < 1")

    @property
    def scores_batch(self) -> bool:
        """False: each sample is classified by itself."""
        return False

    def numbers(self, size: int, context: int) -> dict[str, np.ndarray]:
        """Labels that go through all classes in turn."""
        return {"label": np.arange(size, dtype=np.int32) % max(self.classes, 1)}

    def initial_state(
        self, model: VideoModel, trained: dict[str, Any], frozen: dict[str, Any]
    ) -> dict[str, Any]:
        """An empty state.

        Raises:
            ValueError: no method of the model tells classes apart, or one is for another number of
                classes.
        """
        known = model.known_classes
        if not known:
            raise ValueError(
                "task.name='classification': no method of the model tells classes apart; add "
                "attention_probe to model.methods"
            )
        if self.classes not in (0, known):
            raise ValueError(
                f"a method of the model is for {known} classes, but {self.classes} are trained on: "
                "set its option `classes`"
            )
        return {}

    def features(self, outputs: Mapping[str, Any], batch: Batch) -> Features:
        """`logits` [b, c] and `label` [b]."""
        return {"logits": outputs["tokens"][:, 0], "label": batch["label"]}

    def loss(self, features: Features) -> tuple[jax.Array, Terms]:
        """The mean over samples; the terms include the accuracy."""
        logits, label = features["logits"], features["label"]
        value = losses.smoothed_cross_entropy(logits, label, self.label_smoothing).mean()
        accuracy = jnp.mean(logits.argmax(-1) == label)
        return value, {"cross_entropy": value, "accuracy": accuracy}
