"""By what optimiser the trained leaves move."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vlt.pytrees.fields import near
from vlt.pytrees.paths import path_name
from vlt.pytrees.patterns import first_match
from vlt.training.rules import Rule, parse_rules
from vlt.training.schedules import OptimizerConfigError, Schedule, make_schedule


def make_optimizer(
    config: Mapping[str, Any], rules: Iterable[tuple[str, Any]], total_steps: int
) -> tuple[optax.GradientTransformation, Schedule]:
    """Builds the optimiser of the trained leaves.

    With 'adamw' a leaf moves by -lr(step) * rule.lr * (adam(gradient) + rule.weight_decay * leaf),
    after the gradients of all trained leaves together are scaled down to the norm `clip`
    (Loshchilov & Hutter, arXiv:1711.05101, with the decay scaled by the learning rate as in torch).
    'adamw_hf' is the AdamW of older Hugging Face releases, with which TempMe and CLIP4Clip are
    published: `eps` is added before the second moment's bias is corrected, and what decays is the
    leaf as Adam has just moved it.

    Args:
      config: `config.optimizer`: lr, b1, b2, eps, clip (0: none), schedule, name (one of the two).
      rules: the config's rules, already checked against the whole tree by `partition`.
      total_steps: optimiser steps of the whole run.

    Returns:
      the transformation for the tree `partition(...)[0]`, and step -> learning rate (before the
      rules' multipliers).

    Raises:
      OptimizerConfigError: unknown optimiser, schedule or option.
    """
    name = config.get("name", "adamw")
    if name not in _OPTIMIZERS:
        raise OptimizerConfigError(f"optimizer {name!r} is unknown{near(name, _OPTIMIZERS)}")
    schedule = make_schedule(config["schedule"], config["lr"], total_steps)
    moments = {name: config[name] for name in ("b1", "b2", "eps")}
    parts = _OPTIMIZERS[name](moments, parse_rules(rules), schedule)
    if config.get("clip", 0):
        parts.insert(0, optax.clip_by_global_norm(config["clip"]))
    return optax.chain(*parts), schedule


def _adamw(
    moments: Mapping[str, float], rules: tuple[Rule, ...], schedule: Schedule
) -> list[optax.GradientTransformation]:
    def move(update: jax.Array, param: jax.Array, rule: Rule) -> jax.Array:
        return rule.lr * (update + rule.weight_decay * param)

    apply_rules = optax.stateless(lambda updates, params: _by_rule(move, updates, params, rules))
    return [optax.scale_by_adam(**moments), apply_rules, optax.scale_by_learning_rate(schedule)]


def _adamw_hf(
    moments: Mapping[str, float], rules: tuple[Rule, ...], schedule: Schedule
) -> list[optax.GradientTransformation]:
    def init(params: Any) -> optax.ScaleByScheduleState:
        return optax.ScaleByScheduleState(count=jnp.zeros([], jnp.int32))

    def update(updates: Any, state: optax.ScaleByScheduleState, params: Any = None) -> Any:
        def move(update: jax.Array, param: jax.Array, rule: Rule) -> jax.Array:
            rate = rule.lr * schedule(state.count)
            return -rate * (update + rule.weight_decay * (param - rate * update))

        count = optax.safe_increment(state.count)
        return _by_rule(move, updates, params, rules), optax.ScaleByScheduleState(count)

    return [_scale_by_adam_hf(**moments), optax.GradientTransformation(init, update)]


def _scale_by_adam_hf(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Adam's direction, m / (sqrt(v) + eps), times the correction of both moments' bias."""

    def update(updates: Any, state: optax.ScaleByAdamState, params: Any = None) -> Any:
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment(updates, state.nu, b2, 2)
        count = optax.safe_increment(state.count)
        correction = jnp.sqrt(1 - b2**count) / (1 - b1**count)
        direction = jax.tree.map(lambda m, v: correction * m / (jnp.sqrt(v) + eps), mu, nu)
        return direction, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(optax.scale_by_adam().init, update)


_OPTIMIZERS = {"adamw": _adamw, "adamw_hf": _adamw_hf}


def _by_rule(
    move: Callable[[jax.Array, jax.Array, Rule], jax.Array],
    updates: Any,
    params: Any,
    rules: tuple[Rule, ...],
) -> Any:
    """`move` of each leaf's update, the leaf and its rule."""
    patterns = [rule.pattern for rule in rules]

    def of(path: tuple, update: jax.Array, param: jax.Array) -> jax.Array:
        index = first_match(patterns, path_name(path))
        assert index is not None  # `partition` has found a rule for every leaf
        return move(update, param, rules[index])

    return jax.tree_util.tree_map_with_path(of, updates, params)
