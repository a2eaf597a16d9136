"""A whole training step: its time, and its memory without running it."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vlt.bench.forward import random_video
from vlt.bench.timing import ROUNDS, memory, ratio, turns
from vlt.models.build import abstract_params, build_model, example_inputs, init_params
from vlt.models.points import copy_leaves
from vlt.optim import make_optimizer, merge, partition
from vlt.step import TrainState, make_train_step
from vlt.tasks.build import make_task

STEPS = 1000  # of the learning rate's schedule


class Step:
    """A config's compiled training step, and the state that it changes once `start` made one."""

    def __init__(self, config: Any, batch: int) -> None:
        self.config, self.batch = config, batch
        self.model = build_model(config.model)
        self._optimizer, schedule = make_optimizer(config.optimizer, config.rules, STEPS)
        self._task = make_task(config, self.model.spec)
        step = make_train_step(self.model, self._task, self._optimizer, schedule, 0)
        state, frozen = jax.eval_shape(self._initial)
        shapes = example_inputs(self.model.spec, config.model.frames, config.model.context, batch)
        # Recognition has its texts already.
        self._shapes = dict(zip(self._task.columns, shapes, strict=False))
        self._shapes |= {x: jax.ShapeDtypeStruct((batch,), jnp.int32) for x in self._task.also}
        # As in training, the new state takes the place of the old.
        self.compiled = jax.jit(step, donate_argnums=0).lower(state, frozen, self._shapes).compile()

    def _initial(self) -> tuple[TrainState, dict[str, Any]]:
        params = init_params(self.model, jax.random.key(0))
        trained, frozen = partition(params, self.config.rules)
        return TrainState.create(self.model, trained, frozen, self._optimizer, self._task), frozen

    def start(self) -> "Step":
        """Random weights, videos and texts."""
        self.state, self.frozen = jax.jit(self._initial)()
        rng = np.random.default_rng(1)
        self.inputs = {
            name: jnp.asarray(rng.integers(1, self.model.spec.text.vocab, x.shape), x.dtype)
            for name, x in self._shapes.items()
        }
        self.inputs |= {name: jnp.arange(self.batch) for name in self._task.also}
        self.inputs["video"] = random_video(self.model, self.batch)
        return self

    def run(self) -> dict[str, jax.Array]:
        """One step; returns its metrics."""
        self.state, metrics = self.compiled(self.state, self.frozen, self.inputs)
        return metrics


def bench_step(
    config: Any, batch: int, against: Mapping[str, Any] | None = None, rounds: int = ROUNDS
) -> dict[str, Any]:
    """A training step beside the vision tower's forward pass without methods, and beside others'.

    Args:
        config: the whole config. against: other configs, by name.
    """
    main = Step(config, batch).start()
    others = {name: Step(other, batch).start() for name, other in (against or {}).items()}
    functions = [main.run, backbone_forward(main), *(other.run for other in others.values())]
    times = turns(*functions, rounds=rounds)
    step_s, forward_s = (float(np.median(times[:, i])) for i in range(2))
    result: dict[str, Any] = {
        "step_s": step_s,
        "videos_per_s": batch / step_s,
        "backbone_forward_s": forward_s,
        "step_over_forward": ratio(times, 0, 1),
        "peak_bytes": memory(main.compiled)["peak_bytes"],
    }
    if others:
        result["against"] = {
            name: {"step_s": float(np.median(times[:, i])), "times_as_fast": ratio(times, i, 0)}
            for i, name in enumerate(others, start=2)
        }
    return result


def step_memory(
    config: Any, batch: int, against: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What XLA plans for the training step on one device. Nothing is allocated or executed."""
    result: dict[str, Any] = memory(Step(config, batch).compiled)
    if against:
        planned = {name: memory(Step(other, batch).compiled) for name, other in against.items()}
        result["against"] = {
            name: other | {"of_its_peak": result["peak_bytes"] / other["peak_bytes"]}
            for name, other in planned.items()
        }
    return result


def backbone_forward(step: Step) -> Callable[[], jax.Array]:
    """The vision tower without methods, at the step's weights and on its videos."""
    bare = step.model.clone(methods=(), cls_only=False)
    shapes = abstract_params(bare)
    forward = jax.jit(lambda p, x: bare.apply({"params": p}, x, method="encode_video")[0])

    def run() -> jax.Array:
        # Read at every call: the step gives its old state away.
        params = merge(step.state.trained, step.frozen)
        return forward(copy_leaves(shapes, params), step.inputs["video"])

    return run
