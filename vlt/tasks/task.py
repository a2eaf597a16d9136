"""What the training step asks of a task."""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from vlt.models.video_model import VideoModel
from vlt.pytrees.partition import merge

Batch = Mapping[str, jax.Array]
Features = dict[str, jax.Array]
Terms = dict[str, jax.Array]


class StepInputs(NamedTuple):
    """What a loss is computed from.

    Attributes:
        trained, frozen: the two parts of the parameters.
        batch: the entries that the task names. rng: random key of this step.
        state: what the task carries along, as it is before the step.
    """

    model: VideoModel
    trained: dict[str, Any]
    frozen: dict[str, Any]
    batch: Batch
    rng: jax.Array
    state: dict[str, Any]

    @property
    def params(self) -> dict[str, Any]:
        """The whole tree of parameters."""
        return merge(self.trained, self.frozen)


class Task:
    """A loss over the global batch, in two parts: features of each sample, and the loss from them.

    This allows microbatches, whose features are computed one after another. A task whose loss does
    not consist of these parts, or changes what the task carries along, overrides `objective`, and
    its batch is never split.

    Attributes:
        model_inputs: entries of a batch that the model is called with, in order.
        loss_inputs: further entries that the loss reads.
    """

    model_inputs: ClassVar[tuple[str, ...]] = ("video", "text")
    loss_inputs: ClassVar[tuple[str, ...]] = ()

    @property
    def separable(self) -> bool:
        """Whether the task is `features` and `loss` alone, and leaves its state unchanged."""
        return type(self).objective is Task.objective

    def initial_state(
        self, model: VideoModel, trained: dict[str, Any], frozen: dict[str, Any]
    ) -> dict[str, Any]:
        """What the task itself carries from step to step, besides weights: momentum, queues, or
        outputs of frozen weights for fixed inputs."""
        return {}

    def numbers(self, size: int, context: int) -> dict[str, np.ndarray]:
        """Placeholders for the `loss_inputs` of a batch of `size` samples, int32 [b] or, for texts
        of `context` tokens, [b, l]."""
        return {name: np.arange(size, dtype=np.int32) for name in self.loss_inputs}

    def initial_params(self, model: VideoModel, params: dict[str, Any]) -> dict[str, Any]:
        """The whole tree before training, with leaves that depend on the task filled in."""
        return params

    @property
    def scores_batch(self) -> bool:
        """Whether the loss reads scores of each sample with the others in its batch."""
        return True

    def prepared(self, batch: Batch, rng: jax.Array) -> Batch:
        """The whole batch, before it is split, with what is drawn at random for this step."""
        return batch

    def features(self, outputs: Mapping[str, Any], batch: Batch) -> Features:
        """What the loss reads of the model's outputs: leading dimension b, or scalars."""
        raise NotImplementedError

    def loss(self, features: Features) -> tuple[jax.Array, Terms]:
        """The loss, and the terms that are logged."""
        raise NotImplementedError

    def objective(self, inputs: StepInputs) -> tuple[jax.Array, tuple[Terms, dict[str, Any]]]:
        """The loss of a whole batch, what is logged, and the task's state after it."""
        value, terms = self.loss(self.features(self.forward(inputs), inputs.batch))
        return value, (terms, inputs.state)

    def forward(self, inputs: StepInputs) -> Any:
        """The model's outputs in training."""
        return inputs.model.apply(
            {"params": inputs.params},
            *(inputs.batch[name] for name in self.model_inputs),
            train=True,
            rngs=named_rngs(inputs.rng),
        )


def named_rngs(rng: jax.Array) -> dict[str, jax.Array]:
    """The streams that modules draw from in training."""
    mask, dropout = jax.random.split(rng)
    return {"mask": mask, "dropout": dropout}
