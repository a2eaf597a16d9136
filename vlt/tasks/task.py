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
    """What a loss is computed of.

    Attributes:
        trained, frozen: the two parts of the parameters.
        batch: the entries that the task names. rng: of this step.
        state: what the task carries, as it is before the step.
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
    """A loss over the global batch, in two parts: what it needs of each sample, and the loss of it.

    The batch may so come in microbatches, whose features are computed one after another. A task
    whose loss is not made of such parts, or changes what the task carries, overrides `objective`,
    and its batch is never parted.

    Attributes:
        model_inputs: entries of a batch that the model is called with, in order.
        loss_inputs: further entries that the loss reads.
    """

    model_inputs: ClassVar[tuple[str, ...]] = ("video", "text")
    loss_inputs: ClassVar[tuple[str, ...]] = ()

    @property
    def separable(self) -> bool:
        """Whether `features` and `loss` are all there is, and the state stays as it is."""
        return type(self).objective is Task.objective

    def initial_state(
        self, model: VideoModel, trained: dict[str, Any], frozen: dict[str, Any]
    ) -> dict[str, Any]:
        """What the task itself carries from step to step, besides weights: momentum, queues, what
        frozen weights make of fixed inputs."""
        return {}

    def numbers(self, size: int, context: int) -> dict[str, np.ndarray]:
        """Entries `loss_inputs` of a batch of so many made-up samples, int32 [b] or, of texts of
        so many tokens, [b, l]."""
        return {name: np.arange(size, dtype=np.int32) for name in self.loss_inputs}

    def initial_params(self, model: VideoModel, params: dict[str, Any]) -> dict[str, Any]:
        """The whole tree, with leaves that hold what the task is about, before training."""
        return params

    @property
    def scores_batch(self) -> bool:
        """Whether the loss reads scores of each sample with the others of its batch."""
        return True

    def prepared(self, batch: Batch, rng: jax.Array) -> Batch:
        """The whole batch, before it is parted, with what is drawn of it for this step."""
        return batch

    def features(self, outputs: Mapping[str, Any], batch: Batch) -> Features:
        """What the loss reads of the model's outputs: leading dimension b, or scalars."""
        raise NotImplementedError

    def loss(self, features: Features) -> tuple[jax.Array, Terms]:
        """The loss, and what is logged of it."""
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
