"""The training step as one program over a mesh: its inputs, where they live, and its compilation.

The loop, the benchmark and the compilation for other machines all take it from here.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vlt.model_io.build import abstract_params, example_inputs, input_names
from vlt.models.spec import EncoderSpec, Spec
from vlt.models.video_model import VideoModel
from vlt.pytrees.paths import path_name
from vlt.runtime.mesh import (
    MeshError,
    batch_sharding,
    check_batch_size,
    check_rules,
    param_sharding,
    place_whole,
    replicated,
)
from vlt.tasks.task import Task
from vlt.training.optimizer import make_optimizer
from vlt.training.rules import partition
from vlt.training.step import TrainState, make_train_step

SEEDS = 2**32


class TrainingProgram:
    """A config's training step on a mesh.

    Args:
        config: the whole config. steps: length of the learning rate's schedule.

    Attributes:
        mesh: the devices that the program is for; they need not be present.

    Raises:
        MeshError: heads that the mesh cannot split.
        ValueError: an invalid seed, optimizer, schedule or accumulation.
    """

    def __init__(self, config: Any, mesh: Mesh, module: VideoModel, task: Task, steps: int):
        self.config, self.mesh, self.module, self.task = config, mesh, module, task
        self._optimizer, schedule = make_optimizer(config.optimizer, config.rules, steps)
        self.step = make_train_step(
            module, task, self._optimizer, schedule, config.optimizer.accumulate
        )
        _check_heads(mesh, module.spec)
        if not 0 <= config.seed < SEEDS:
            raise ValueError(f"config.seed must be between 0 and {SEEDS - 1}, got {config.seed}")

    def shardings(self, tree: Any) -> Any:
        """Where the leaves of parameters or of the state live."""
        section = self.config.sharding
        return param_sharding(self.mesh, tree, section.params, section.min_elements)

    def placed(self, params: Any) -> tuple[TrainState, dict[str, Any]]:
        """The state before the first step, and the frozen leaves, on their devices."""
        check_rules(self.config.sharding.params, params)
        trained, frozen = partition(params, self.config.rules)
        frozen = self._held(frozen)
        frozen = place_whole(frozen, self.shardings(frozen))
        seed = np.uint32(self.config.seed)
        places = self.shardings(jax.eval_shape(self._create, trained, frozen, seed))
        return jax.jit(self._create, out_shardings=places)(trained, frozen, seed), frozen

    def _held(self, frozen: dict[str, Any]) -> dict[str, Any]:
        """Frozen leaves as they are read: on accelerators, matrices in the dtype of activations.

        Layers that read a kernel or a table cast it to that dtype in any case, in every step.
        """
        narrow = jnp.dtype(self.module.dtype)
        if narrow.itemsize >= 4 or self.mesh.devices.flat[0].platform == "cpu":
            return frozen

        def held(path: tuple[Any, ...], leaf: Any) -> Any:
            matrix = path_name(path).endswith(("kernel", "embedding")) and leaf.ndim > 1
            if not matrix or leaf.dtype != jnp.float32:
                return leaf
            if isinstance(leaf, jax.ShapeDtypeStruct):
                return jax.ShapeDtypeStruct(leaf.shape, narrow)
            return np.asarray(leaf).astype(narrow)

        return jax.tree_util.tree_map_with_path(held, frozen)

    def shapes(self) -> tuple[TrainState, dict[str, Any]]:
        """As `placed`, but shapes instead of weights."""
        params = abstract_params(self.module)
        check_rules(self.config.sharding.params, params)
        trained, frozen = partition(params, self.config.rules)
        frozen = self._held(frozen)
        state = jax.eval_shape(self._create, trained, frozen, np.uint32(0))
        return with_sharding(state, self.shardings(state)), with_sharding(
            frozen, self.shardings(frozen)
        )

    def check_batch(self, size: int) -> None:
        """Raises MeshError where the mesh cannot split a batch of `size` videos into equal parts,
        or one of the microbatches that it is accumulated from."""
        check_batch_size(self.mesh, size, self.config.optimizer.accumulate)

    def batch_shapes(self, size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a batch of `size` videos. Raises as `check_batch`."""
        self.check_batch(size)
        model = self.config.model
        spec = self.module.spec
        inputs = example_inputs(spec, model.frames, model.context, size)
        examples = dict(zip(input_names(spec), inputs, strict=True))
        shapes = {name: examples[name] for name in self.task.model_inputs}
        numbers = self.task.numbers(size, model.context)
        shapes |= {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in numbers.items()}
        return with_sharding(shapes, jax.tree.map(lambda _: batch_sharding(self.mesh), shapes))

    def _create(self, trained: dict[str, Any], frozen: dict[str, Any], seed: Any) -> TrainState:
        return TrainState.create(self.module, trained, frozen, self._optimizer, self.task, seed)

    def lower(self, state: TrainState, frozen: Any, batch: Mapping[str, Any]) -> Any:
        """Lowers (state, frozen, batch) -> (state, metrics), donating the old state to the new."""
        outputs = (self.shardings(state), replicated(self.mesh))
        program = jax.jit(self.step, donate_argnums=0, out_shardings=outputs)
        rules = tuple(self.config.sharding.activations.items())
        with jax.set_mesh(self.mesh), nn.logical_axis_rules(rules):
            return program.lower(state, frozen, batch)


def with_sharding(tree: Any, shardings: Any) -> Any:
    """Shapes with their shardings."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
    )


def _check_heads(mesh: Mesh, spec: Spec) -> None:
    parts = mesh.shape["tensor"]
    texts = () if isinstance(spec, EncoderSpec) else (spec.text,)
    for tower in (spec.visual, *texts):
        if tower.heads % parts:
            raise MeshError(
                f"mesh.tensor={parts} does not divide the {tower.heads} heads of a tower; "
                "take a divisor, or data and fsdp alone"
            )
