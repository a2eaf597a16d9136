"""The optimiser of the trained leaves."""

import functools
import inspect
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from absl import logging

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
    'adamw_hf' is the AdamW of older Hugging Face releases, which the published TempMe and CLIP4Clip
    use: `eps` is added before the second moment's bias is corrected, and the decay applies to the
    leaf after Adam has moved it.
    Any other name is that of optax's optimiser: with the update that it makes at a learning rate of
    1, a leaf moves by lr(step) * rule.lr * (update - rule.weight_decay * leaf). So the decay is
    decoupled from the gradient in all of them, in SGD and LAMB too (Loshchilov & Hutter's SGDW).

    Args:
      config: `config.optimizer`: lr, clip (0: none), schedule, name; b1, b2 and eps are for the two
        AdamWs; options of another stand in a section of its name and default to optax's.
      rules: the config's rules, already checked against the whole tree by `partition`.
      total_steps: optimiser steps of the whole run.

    Returns:
      the transformation for the tree `partition(...)[0]`, and step -> learning rate (before the
      rules' multipliers).

    Raises:
      OptimizerConfigError: unknown optimiser, schedule or option, an invalid value, or an optimiser
        whose steps are not multiples of its learning rate.
    """
    name = config.get("name", "adamw")
    schedule = make_schedule(config["schedule"], config["lr"], total_steps)
    if name in _OPTIMIZERS:
        if options := list(config.get(name, {})):
            raise OptimizerConfigError(
                f"optimizer.{name}.{options[0]}: options of {name} are optimizer.b1, b2 and eps"
            )
        moments = {name: config[name] for name in MOMENTS}
        parts = _OPTIMIZERS[name](moments, parse_rules(rules), schedule)
    else:
        parts = _of_optax(name, config, parse_rules(rules), schedule)
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


def _takes_rate(function: Callable[..., Any]) -> bool:
    return next(iter(inspect.signature(function).parameters), "") == "learning_rate"


MOMENTS = ("b1", "b2", "eps")
_OPTIMIZERS = {"adamw": _adamw, "adamw_hf": _adamw_hf}
# Optimisers whose steps are not multiples of the learning rate, so that rules could not scale them,
# or that need more than gradients.
_UNFIT = ("fromage", "lbfgs", "noisy_sgd", "rprop")
OF_OPTAX = {
    name: found
    for name, found in vars(optax).items()
    if isinstance(found, (types.FunctionType, functools.partial))
    and not name.startswith(("_", "scale_by_"))
    and name not in (*_OPTIMIZERS, *_UNFIT)
    and _takes_rate(found)
}
# Options that rules set for each leaf, or that no config can hold.
_OF_RULES = ("weight_decay", "weight_decay_rate", "mask", "weight_decay_mask", "trust_ratio_mask")


def optimizer_options(name: str) -> list[str]:
    """The options of an optimizer of `OF_OPTAX` that a config may set in a section of its name."""
    parameters = inspect.signature(OF_OPTAX[name]).parameters
    return [option for option in parameters if option not in ("learning_rate", *_OF_RULES)]


def _of_optax(
    name: str, config: Mapping[str, Any], rules: tuple[Rule, ...], schedule: Schedule
) -> list[optax.GradientTransformation]:
    if name in _UNFIT:
        raise OptimizerConfigError(
            f"optimizer {name!r} cannot be used: rules scale the step of each leaf, and its steps "
            "are not multiples of its learning rate, or need more than gradients"
        )
    if name not in OF_OPTAX:
        raise OptimizerConfigError(
            f"optimizer {name!r} is unknown{near(name, {*_OPTIMIZERS, *OF_OPTAX})}"
        )
    made = _at_rate_one(name, dict(config.get(name, {})))

    def move(update: jax.Array, param: jax.Array, rule: Rule) -> jax.Array:
        return rule.lr * (update - rule.weight_decay * param)

    apply_rules = optax.stateless(lambda updates, params: _by_rule(move, updates, params, rules))
    return [made, apply_rules, optax.scale_by_schedule(schedule)]


def _at_rate_one(name: str, options: dict[str, Any]) -> optax.GradientTransformation:
    """optax's optimizer at a rate of 1, without its own decay, after a trial on a small leaf."""
    known = optimizer_options(name)
    for option in options:
        if option not in known:
            told = near(option, known)
            if option in _OF_RULES:
                told = ": rules say how each leaf decays (weight_decay)"
            raise OptimizerConfigError(f"optimizer {name!r} has no option {option!r}{told}")
    unset = [option for option in MOMENTS if option in known and option not in options]
    if unset:
        logging.warning(
            "optimizer %s: %s as optax has them, since those of the config are adamw's; "
            "optimizer.%s.%s sets another",
            name, ", ".join(unset), name, unset[0],
        )  # fmt: skip
    parameters = inspect.signature(OF_OPTAX[name]).parameters
    undecayed = {"weight_decay": 0.0} if "weight_decay" in parameters else {}
    try:
        made = OF_OPTAX[name](1.0, **options, **undecayed)
        leaf = jnp.ones((2, 2))
        moved, _ = made.update(leaf, made.init(leaf), leaf)
        if not jnp.isfinite(moved).all():
            raise ValueError("a step of it is not a finite number")
    except (TypeError, ValueError, AttributeError, AssertionError) as error:
        raise OptimizerConfigError(f"optimizer {name!r} with {options}: {error}") from error
    return made


def _by_rule(
    move: Callable[[jax.Array, jax.Array, Rule], jax.Array],
    updates: Any,
    params: Any,
    rules: tuple[Rule, ...],
) -> Any:
    """Applies `move` to each leaf's update, the leaf and its rule."""
    patterns = [rule.pattern for rule in rules]

    def of(path: tuple, update: jax.Array, param: jax.Array) -> jax.Array:
        index = first_match(patterns, path_name(path))
        assert index is not None  # `partition` has found a rule for every leaf
        return move(update, param, rules[index])

    return jax.tree_util.tree_map_with_path(of, updates, params)
