"""The training step: gradients of the trained leaves alone, over the global batch."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from vlt.models.video_model import VideoModel
from vlt.optim import merge
from vlt.tasks.retrieval import Retrieval

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]


class TrainState(flax.struct.PyTreeNode):
    """What changes from step to step. Frozen leaves are passed beside it.

    failed: a loss or gradient was not finite; no step changes anything afterwards.
    """

    step: jax.Array
    trained: dict[str, Any]
    opt_state: optax.OptState
    failed: jax.Array

    @classmethod
    def create(
        cls, trained: dict[str, Any], optimizer: optax.GradientTransformation
    ) -> "TrainState":
        """State before the first step."""
        step, failed = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
        return cls(step, trained, optimizer.init(trained), failed)


def make_train_step(
    model: VideoModel,
    task: Retrieval,
    optimizer: optax.GradientTransformation,
    schedule: Callable[[jax.Array], jax.Array],
    seed: int,
    accumulate: int = 1,
) -> Callable[[TrainState, dict[str, Any], Batch], tuple[TrainState, Metrics]]:
    """(state, frozen, batch) -> (state, metrics), to be jitted.

    batch: uint8 video [b, t, H, W, 3] and text ids [b, l]; the loss contrasts all b samples however
    they are sharded. accumulate: microbatches whose features are computed one after another; the
    gradient is that of the whole batch (Gao et al., arXiv:2101.06983). A step whose loss or
    gradient is not finite changes nothing, nor does any later one; metrics["finite"] says so.
    """
    gradient = _whole_gradient if accumulate == 1 else _accumulated_gradient

    def features(trained: dict, frozen: dict, batch: Batch, rng: jax.Array) -> dict:
        mask, dropout = jax.random.split(rng)
        outputs: Any = model.apply(
            {"params": merge(trained, frozen)},
            batch["video"],
            batch["text"],
            train=True,
            rngs={"mask": mask, "dropout": dropout},
        )
        found = task.features(outputs, batch)
        return found | {"logit_scale": outputs["logit_scale"]}

    def step(state: TrainState, frozen: dict, batch: Batch) -> tuple[TrainState, Metrics]:
        rng = jax.random.fold_in(jax.random.key(seed), state.step)
        loss, terms, grads = gradient(
            lambda trained, part, key: features(trained, frozen, part, key),
            lambda found: task.loss(found, found["logit_scale"]),
            state.trained,
            batch,
            rng,
            accumulate,
        )
        norm = optax.global_norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm) & ~state.failed
        updates, opt_state = optimizer.update(grads, state.opt_state, state.trained)
        trained = optax.apply_updates(state.trained, updates)
        after = TrainState(state.step + 1, trained, opt_state, state.failed)
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, state)
        metrics = terms | {"loss": loss, "grad_norm": norm, "lr": schedule(state.step)}
        return kept.replace(failed=~finite), metrics | {"finite": finite}

    return step


def _whole_gradient(features, loss, trained, batch, rng, accumulate):
    """Loss, its terms and its gradient in one pass."""

    def objective(trained):
        return loss(features(trained, batch, rng))

    (value, terms), grads = jax.value_and_grad(objective, has_aux=True)(trained)
    return value, terms, grads


def _accumulated_gradient(features, loss, trained, batch, rng, accumulate):
    """The same gradient from parts of the batch: features first, then their cotangents."""
    parts = jax.tree.map(lambda x: _split(x, accumulate), batch)
    keys = jax.random.split(rng, accumulate)
    found = jax.lax.map(lambda part: features(trained, *part), (parts, keys))
    (value, terms), cotangents = _loss_gradient(loss, found)

    def add(total, part):
        inputs, key, cotangent = part
        _, pullback = jax.vjp(lambda leaves: _floating(features(leaves, inputs, key)), trained)
        return jax.tree.map(jnp.add, total, pullback(cotangent)[0]), None

    zeros = jax.tree.map(jnp.zeros_like, trained)
    grads, _ = jax.lax.scan(add, zeros, (parts, keys, cotangents))
    return value, terms, grads


def _loss_gradient(loss, found):
    """Loss of microbatches' features [m, b/m, ...] and its gradient with respect to them."""
    fixed = {name: x for name, x in found.items() if name not in _floating(found)}

    def objective(floating):
        whole = {name: _join(x) for name, x in (floating | fixed).items()}
        # Every microbatch returns the same scale: its gradient is shared among them.
        whole["logit_scale"] = floating["logit_scale"].mean()
        return loss(whole)

    return jax.value_and_grad(objective, has_aux=True)(_floating(found))


def _floating(tree: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {k: x for k, x in tree.items() if jnp.issubdtype(x.dtype, jnp.floating)}


def _split(x: jax.Array, parts: int) -> jax.Array:
    """[b, ...] -> [parts, b / parts, ...]; strided, so every device keeps its own rows."""
    return x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)


def _join(x: jax.Array) -> jax.Array:
    """Inverse of `_split`."""
    return x.swapaxes(0, 1).reshape(-1, *x.shape[2:]) if x.ndim > 1 else x
