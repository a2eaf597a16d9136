"""The training step: gradients of the trained leaves alone, over the global batch."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from vlt.models.video_model import VideoModel
from vlt.tasks.task import StepInputs, Task

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]

PREPARED = 2**31  # folded into a step's key; no microbatch or tower draws from it


class TrainState(flax.struct.PyTreeNode):
    """What changes from step to step. Frozen leaves are passed beside it.

    failed: whether a loss or gradient was not finite; no later step changes anything. task: what
    the task carries along. seed: seeds every step's random key; part of the state so that one
    program serves all seeds.
    """

    step: jax.Array
    trained: dict[str, Any]
    opt_state: optax.OptState
    failed: jax.Array
    task: dict[str, Any]
    seed: jax.Array

    @classmethod
    def create(
        cls,
        model: VideoModel,
        trained: dict[str, Any],
        frozen: dict[str, Any],
        optimizer: optax.GradientTransformation,
        task: Task,
        seed: jax.typing.ArrayLike,
    ) -> "TrainState":
        """State before the first step."""
        step, failed = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
        carried = task.initial_state(model, trained, frozen)
        opt_state = optimizer.init(trained)
        return cls(step, trained, opt_state, failed, carried, jnp.asarray(seed, jnp.uint32))


def make_train_step(
    model: VideoModel,
    task: Task,
    optimizer: optax.GradientTransformation,
    schedule: Callable[[jax.Array], jax.Array],
    accumulate: int = 1,
) -> Callable[[TrainState, dict[str, Any], Batch], tuple[TrainState, Metrics]]:
    """Makes the step (state, frozen, batch) -> (state, metrics), to be jitted.

    batch: the entries that the task names, uint8 video [b, t, H, W, 3] first; the loss is over all
    b samples however they are sharded. accumulate: microbatches whose features are computed one
    after another; the gradient is that of the whole batch (Gao et al., arXiv:2101.06983). A step
    whose loss or gradient is not finite changes nothing, nor does any later one;
    metrics["finite"] says so.

    Raises:
        ValueError: microbatches with a task whose loss needs the whole batch at once.
    """
    pairs = model.scores_pairs and task.scores_batch
    if accumulate > 1 and (pairs or not task.separable):
        name = "a score of pairs" if pairs else type(task).__name__.lower()
        raise ValueError(f"optimizer.accumulate={accumulate}: {name} needs the whole batch at once")
    gradient = _whole_gradient if accumulate == 1 else _accumulated_gradient

    def step(state: TrainState, frozen: dict, batch: Batch) -> tuple[TrainState, Metrics]:
        rng = jax.random.fold_in(jax.random.key(state.seed), state.step)
        batch = task.prepared(batch, jax.random.fold_in(rng, PREPARED))
        loss, terms, carried, grads = gradient(model, task, state, frozen, batch, rng, accumulate)
        norm = optax.global_norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm) & ~state.failed
        updates, opt_state = optimizer.update(grads, state.opt_state, state.trained)
        trained = optax.apply_updates(state.trained, updates)
        after = state.replace(
            step=state.step + 1, trained=trained, opt_state=opt_state, task=carried
        )
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, state)
        metrics = terms | {"loss": loss, "grad_norm": norm, "lr": schedule(state.step)}
        return kept.replace(failed=~finite), metrics | {"finite": finite}

    return step


def _whole_gradient(model, task, state, frozen, batch, rng, accumulate):
    """Loss, its terms, the task's next state, and the gradient, in one pass."""

    def objective(trained):
        return task.objective(StepInputs(model, trained, frozen, batch, rng, state.task))

    (value, (terms, carried)), grads = jax.value_and_grad(objective, has_aux=True)(state.trained)
    return value, terms, carried, grads


def _accumulated_gradient(model, task, state, frozen, batch, rng, accumulate):
    """The same gradient from parts of the batch: features first, then their cotangents."""
    parts = jax.tree.map(lambda x: _split(x, accumulate), batch)
    keys = jax.random.split(rng, accumulate)

    def features(trained, part, key):
        inputs = StepInputs(model, trained, frozen, part, key, state.task)
        return task.features(task.forward(inputs), part)

    found = jax.lax.map(lambda part: features(state.trained, *part), (parts, keys))
    (value, terms), cotangents = _loss_gradient(task.loss, found)

    def add(total, part):
        inputs, key, cotangent = part
        _, pullback = jax.vjp(
            lambda leaves: _floating(features(leaves, inputs, key)), state.trained
        )
        return jax.tree.map(jnp.add, total, pullback(cotangent)[0]), None

    zeros = jax.tree.map(jnp.zeros_like, state.trained)
    grads, _ = jax.lax.scan(add, zeros, (parts, keys, cotangents))
    return value, terms, state.task, grads  # a separable task changes no state


def _loss_gradient(loss, found):
    """Loss of microbatches' features [m, b/m, ...] and its gradient with respect to them."""
    fixed = {name: x for name, x in found.items() if name not in _floating(found)}

    def objective(floating):
        return loss({name: _join(x) for name, x in (floating | fixed).items()})

    return jax.value_and_grad(objective, has_aux=True)(_floating(found))


def _floating(tree: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {k: x for k, x in tree.items() if jnp.issubdtype(x.dtype, jnp.floating)}


def _split(x: jax.Array, parts: int) -> jax.Array:
    """[b, ...] -> [parts, b / parts, ...]; strided, so every device keeps its own rows."""
    return x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)


def _join(x: jax.Array) -> jax.Array:
    """Inverse of `_split`; for a scalar, which is the same in every microbatch, the mean."""
    return x.swapaxes(0, 1).reshape(-1, *x.shape[2:]) if x.ndim > 1 else x.mean()
