"""Which leaves are trained, how fast, and by what optimiser.

One ordered list of rules says everything about training a parameter tree:
`(path regex, 'frozen')` or `(path regex, dict(lr=multiplier, weight_decay=w))`. A regex is
compared with the whole '/'-joined path of a leaf (`re.fullmatch`: 'visual' alone matches nothing,
'visual/.*' the tower) and the first rule that matches wins.
"""

import dataclasses
import difflib
import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from vlt.fields import near
from vlt.pytrees.paths import path_name
from vlt.pytrees.rules import first_match, match_all

Tree = Mapping[str, Any]
Schedule = Callable[[Any], Any]

_LISTED = 20


class RuleError(ValueError):
    """A rule list that does not fit the parameter tree, or is not a rule list."""


class OptimizerConfigError(ValueError):
    """An optimiser or schedule that does not exist, or an option it does not have."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """What happens to the leaves whose path `pattern` matches.

    Attributes:
      pattern: regex, compared with the whole path.
      frozen: no gradient and no optimiser state.
      lr: multiplier of the schedule's learning rate.
      weight_decay: decoupled, multiplied by the leaf's learning rate as in AdamW.
    """

    pattern: str
    frozen: bool = False
    lr: float = 1.0
    weight_decay: float = 0.0


def parse_rules(rules: Iterable[tuple[str, Any]]) -> tuple[Rule, ...]:
    """Turns a config's rules into `Rule`s.

    Raises:
      RuleError: names the entry that is neither 'frozen' nor dict(lr=, weight_decay=), or whose
        regex does not compile.
    """
    return tuple(_parse_rule(index, entry) for index, entry in enumerate(rules))


def _parse_rule(index: int, entry: Any) -> Rule:
    if not isinstance(entry, (tuple, list)) or len(entry) != 2:
        raise RuleError(f"rule {index} is {entry!r}; it must be a pair (path regex, treatment)")
    pattern, treatment = entry
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        raise RuleError(f"rule {index}: {pattern!r} is not a regular expression: {error}") from None
    if treatment == "frozen":
        return Rule(pattern, frozen=True)
    if isinstance(treatment, str) or not hasattr(treatment, "items"):
        raise RuleError(
            f"rule {index} ({pattern!r}): {treatment!r} is not 'frozen' or dict(lr=, weight_decay=)"
        )
    options = dict(treatment.items())
    for name, value in options.items():
        if name not in ("lr", "weight_decay"):
            raise RuleError(f"rule {index} ({pattern!r}): {name!r} is not 'lr' or 'weight_decay'")
        if not (type(value) in (int, float) and 0 <= value < math.inf):
            raise RuleError(f"rule {index} ({pattern!r}): {name}={value!r} must be a number >= 0")
    return Rule(pattern, **options)


def assign(params: Tree, rules: Iterable[tuple[str, Any]]) -> dict[str, Rule]:
    """Finds the rule of every leaf.

    Args:
      params: nested dict; leaves may be arrays or shapes.
      rules: (path regex, 'frozen') or (path regex, dict(lr=, weight_decay=)), ordered.

    Returns:
      {'/'-joined path: its rule}, in the tree's order.

    Raises:
      RuleError: lists every leaf that no rule matches, every rule that matches no leaf (with the
        nearest paths) and every rule all of whose leaves earlier rules take.
    """
    parsed = parse_rules(rules)
    paths = list(_flatten(params))
    matches = match_all([rule.pattern for rule in parsed], paths)
    winner = {path: parsed[index] for path, index in matches.winner.items()}
    useless = {index: _shadowed(parsed[index], m, winner) for index, m in matches.shadowed.items()}
    useless |= {index: _dead(parsed[index], paths) for index in matches.dead}
    problems = [useless[index] for index in sorted(useless)]
    if uncovered := [path for path in paths if path not in winner]:
        problems.append(
            f"no rule matches {len(uncovered)} of {len(paths)} leaves (add a rule, "
            "such as ('.*', 'frozen') at the end):\n    " + "\n    ".join(uncovered)
        )
    if problems:
        raise RuleError("the rules do not fit the parameters:\n  " + "\n  ".join(problems))
    return {path: winner[path] for path in paths}


def _shadowed(rule: Rule, matched: list[str], winner: Mapping[str, Rule]) -> str:
    takers = sorted({winner[path].pattern for path in matched})
    return (
        f"rule {rule.pattern!r} never applies: all {len(matched)} leaves that it matches are "
        f"taken by earlier rules ({', '.join(map(repr, takers))}); the first match wins, so "
        "put it before them"
    )


def _dead(rule: Rule, paths: list[str]) -> str:
    # Without the regex's own signs the rest of a misspelt pattern resembles what was meant.
    plain = re.sub(r"[\\^$*+?(){}|\[\].]", "", rule.pattern)
    similar = difflib.get_close_matches(plain, paths, n=3, cutoff=0.3) or paths[:3]
    return (
        f"rule {rule.pattern!r} matches nothing (it must match a whole path); paths near it: "
        f"{', '.join(similar)}"
    )


def partition(params: Tree, rules: Iterable[tuple[str, Any]]) -> tuple[dict, dict]:
    """Splits a parameter tree into (trained, frozen), nested dicts without the other's leaves.

    Differentiate with respect to the first alone, and a frozen leaf costs neither a gradient nor
    optimiser state. Raises as `assign`.
    """
    found = assign(params, rules)
    leaves = _flatten(params)
    trained = {path: leaf for path, leaf in leaves.items() if not found[path].frozen}
    frozen = {path: leaf for path, leaf in leaves.items() if found[path].frozen}
    return _unflatten(trained), _unflatten(frozen)


def merge(trained: Tree, frozen: Tree) -> dict:
    """Puts the two parts of `partition` together again.

    Raises:
      ValueError: a leaf is in both, or is a leaf in one and a folder in the other.
    """
    first, second = _flatten(trained), _flatten(frozen)
    if both := sorted(first.keys() & second.keys()):
        raise ValueError(f"both trained and frozen: {', '.join(both[:_LISTED])}")
    return _unflatten(first | second)


def _flatten(tree: Tree) -> dict[str, Any]:
    return traverse_util.flatten_dict(dict(tree), sep="/")


def _unflatten(leaves: Mapping[str, Any]) -> dict:
    return traverse_util.unflatten_dict(dict(leaves), sep="/")


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


def make_schedule(config: Mapping[str, Any], lr: float, total_steps: int) -> Schedule:
    """Builds step -> learning rate from dict(name=..., options of that schedule).

    Raises:
      OptimizerConfigError: unknown schedule or option, or a value out of range.
    """
    options = dict(config.items())
    name = options.pop("name", None)
    if name not in SCHEDULES:
        raise OptimizerConfigError(f"schedule {name!r} is unknown{near(name, SCHEDULES)}")
    known = list(inspect.signature(SCHEDULES[name]).parameters)[2:]
    for option in options:
        if option not in known:
            raise OptimizerConfigError(
                f"schedule {name!r} has no option {option!r}{near(option, known)}"
            )
    if not 0 <= options.get("warmup", 0) < 1:
        raise OptimizerConfigError(
            f"schedule {name!r}: warmup={options['warmup']!r} must be a share of all steps, 0 <= "
            f"warmup < 1 (for 100 of {total_steps} steps: {100 / total_steps:.3g})"
        )
    return SCHEDULES[name](lr, total_steps, **options)


def constant(lr: float, total_steps: int, warmup: float = 0.0) -> Schedule:
    """`lr` throughout, after a linear rise from 0 over int(warmup * total_steps) steps."""
    steps = int(warmup * total_steps)
    # optax takes a rise of no steps for one that never rises.
    return optax.warmup_constant_schedule(0.0, lr, steps) if steps else optax.constant_schedule(lr)


def cosine(lr: float, total_steps: int, warmup: float = 0.0, final: float = 0.0) -> Schedule:
    """Linear rise from 0 over int(warmup * total_steps) steps, then a half cosine to `final` * lr.

    With final=0, step s of S moves at lr * 0.5 (1 + cos(pi (s - W) / (S - W))) after W of them, as
    TempMe is published; the first step (s = 0) of a rise moves nothing.
    """
    return optax.warmup_cosine_decay_schedule(
        0.0, lr, int(warmup * total_steps), total_steps, end_value=final * lr
    )


def cosine_by_epoch(lr: float, total_steps: int, epochs: float = 1.0) -> Schedule:
    """BLIP's: 0.5 lr (1 + cos(pi e / epochs)) throughout epoch e, counted from 0.

    Args:
        epochs: passes over the data that `total_steps` make.
    """

    def schedule(step: Any) -> Any:
        epoch = jnp.floor(step * epochs / total_steps)
        return 0.5 * lr * (1 + jnp.cos(jnp.pi * jnp.minimum(epoch / epochs, 1.0)))

    return schedule


def btadapter(lr: float, total_steps: int, epochs: float = 1.0) -> Schedule:
    """BT-Adapter's pre-training schedule, as its code is published.

    From 0.05 lr linearly to lr over the first half epoch, then a cosine whose half period is 4.5
    epochs. The published run stops after one epoch, at 0.97 lr.

    Args:
      epochs: passes over the data that `total_steps` make.
    """
    epoch = total_steps / epochs
    rise = epoch / 2

    def schedule(step: Any) -> Any:
        linear = 0.05 + 0.95 * step / rise
        angle = jnp.clip((step - rise) / (4.5 * epoch), 0.0, 1.0) * jnp.pi
        return lr * jnp.where(step < rise, linear, 0.5 * (1 + jnp.cos(angle)))

    return schedule


SCHEDULES = {
    "constant": constant,
    "cosine": cosine,
    "cosine_by_epoch": cosine_by_epoch,
    "btadapter": btadapter,
}
