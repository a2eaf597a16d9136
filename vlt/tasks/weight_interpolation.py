"""Interpolated weight optimisation (Open-VCLIP, Weng et al., arXiv:2302.00624).

Weights mixed with those that training starts from must solve the task as well, so that a mixture
after training (`vlt.export --blend`) keeps what the start could do.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vlt.models.video_model import VideoModel
from vlt.tasks.task import Batch, StepInputs, Task, Terms


@dataclasses.dataclass(frozen=True)
class WeightInterpolation(Task):
    """The loss of `task` at w, plus `ratio` times that at w' = beta start + (1 - beta) w.

    beta is drawn uniformly from [0, `largest`) in each step; start is the trained leaves before the
    first one. The gradient at w' is used for w as it is, without the factor 1 - beta, as published.

    Raises:
        ValueError: largest outside (0, 1], or ratio not above 0.
    """

    task: Task
    largest: float = 0.6
    ratio: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.largest <= 1:
            raise ValueError(f"task.interpolation.largest={self.largest}: must be > 0 and <= 1")
        if self.ratio <= 0:
            raise ValueError(f"task.interpolation.ratio={self.ratio}: must be > 0")

    @property
    def model_inputs(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.task.model_inputs

    @property
    def loss_inputs(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.task.loss_inputs

    def numbers(self, size: int, context: int) -> dict[str, np.ndarray]:
        """Those of `task`."""
        return self.task.numbers(size, context)

    def initial_params(self, model: VideoModel, params: dict[str, Any]) -> dict[str, Any]:
        """As for `task`."""
        return self.task.initial_params(model, params)

    def initial_state(
        self, model: VideoModel, trained: dict[str, Any], frozen: dict[str, Any]
    ) -> dict[str, Any]:
        """The state of `task`, and `start`."""
        return {
            "task": self.task.initial_state(model, trained, frozen),
            # A step that donates its old state must not donate a leaf twice.
            "start": jax.tree.map(jnp.copy, trained),
        }

    def prepared(self, batch: Batch, rng: jax.Array) -> Batch:
        """As for `task`."""
        return self.task.prepared(batch, rng)

    def objective(self, inputs: StepInputs) -> tuple[jax.Array, tuple[Terms, dict[str, Any]]]:
        """The weighted sum of both losses; terms and state are those at w, plus `interpolated`, the
        loss at w', and `start_share`, beta."""
        trained, state = inputs.trained, inputs.state
        own, other, drawn = jax.random.split(inputs.rng, 3)
        beta = jax.random.uniform(drawn, maxval=self.largest)

        def loss(leaves: dict[str, Any], key: jax.Array) -> Any:
            at = inputs._replace(trained=leaves, rng=key, state=state["task"])
            return self.task.objective(at)

        def towards_start(leaf: jax.Array, start: jax.Array) -> jax.Array:
            return leaf + jax.lax.stop_gradient((beta * (start - leaf)).astype(leaf.dtype))

        value, (terms, carried) = loss(trained, own)
        mixed, _ = loss(jax.tree.map(towards_start, trained, state["start"]), other)
        terms = terms | {"interpolated": mixed, "start_share": beta}
        return value + self.ratio * mixed, (terms, state | {"task": carried})
