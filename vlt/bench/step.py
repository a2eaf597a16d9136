"""A whole training step: its time, and its memory without running it."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from vlt.bench.forward import random_video
from vlt.bench.timing import ROUNDS, ratio, turns
from vlt.costs.memory import memory
from vlt.model_io.build import (
    abstract_params,
    build_model,
    init_params,
    input_names,
    seen_inputs,
)
from vlt.models.points import copy_leaves
from vlt.models.spec import ChatSpec, Spec
from vlt.pytrees.partition import merge
from vlt.runtime.mesh import make_mesh, shard_batch
from vlt.tasks.build import make_task
from vlt.training.program import TrainingProgram

STEPS = 1000  # length of the learning rate schedule


class Step:
    """A config's compiled training step and, after `start`, the state that it updates."""

    def __init__(self, config: Any, batch: int) -> None:
        self.config, self.batch = config, batch
        self.model = build_model(config.model)
        task = make_task(config, self.model.spec)
        self.program = TrainingProgram(config, make_mesh(config.mesh), self.model, task, STEPS)
        shapes = self.program.batch_shapes(batch)
        self.compiled = self.program.lower(*self.program.shapes(), shapes).compile()

    def start(self) -> "Step":
        """Makes random weights, videos and texts."""
        params = jax.jit(lambda: init_params(self.model, jax.random.key(0)))()
        self.state, self.frozen = self.program.placed(params)
        self.inputs = shard_batch(random_batch(self.program, self.batch), self.program.mesh)
        return self

    def run(self) -> dict[str, jax.Array]:
        """One step; returns its metrics."""
        self.state, metrics = self.compiled(self.state, self.frozen, self.inputs)
        return metrics


def random_batch(program: TrainingProgram, size: int) -> dict[str, np.ndarray]:
    """Noise, each entry within its own range: pixels, ids of the vocabulary, the task's numbers."""
    rng, task, model = np.random.default_rng(1), program.task, program.module
    context = program.config.model.context
    texts = {
        name: rng.integers(1, _vocabulary(model.spec, name), shape.shape, np.int32)
        for name, shape in program.batch_shapes(size).items()
        if name in task.model_inputs and name != "video"
    }
    return {"video": np.asarray(random_video(model, size))} | texts | task.numbers(size, context)


def _vocabulary(spec: Spec, text: str) -> int:
    """Vocabulary size of the model that reads a text."""
    if text == "instruction" and isinstance(spec, ChatSpec) and spec.qformer is not None:
        return spec.qformer.vocab
    return spec.text.vocab


def bench_step(
    config: Any, batch: int, against: Mapping[str, Any] | None = None, rounds: int = ROUNDS
) -> dict[str, Any]:
    """Times a training step, the vision tower's forward pass without methods, and others' steps.

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
    """The vision tower's forward pass without methods, at the step's weights and on its videos."""
    bare = step.model.clone(methods=(), cls_only=False)
    shapes = abstract_params(bare)
    forward = jax.jit(lambda p, *x: bare.apply({"params": p}, *x, method="encode_video")[0])
    names = seen_inputs(bare.spec, input_names(bare.spec))

    def run() -> jax.Array:
        # Read at every call, since the step donates its old state.
        params = merge(step.state.trained, step.frozen)
        return forward(copy_leaves(shapes, params), *(step.inputs[name] for name in names))

    return run
