"""Which leaves are trained, and how fast.

One ordered list of rules says everything about training a parameter tree: `(path regex, 'frozen')`
or `(path regex, dict(lr=multiplier, weight_decay=w))`. A regex is compared with the whole
'/'-joined path of a leaf (`re.fullmatch`: 'visual' alone matches nothing, 'visual/.*' the tower)
and the first rule that matches wins.
"""

import dataclasses
import difflib
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vlt.pytrees.partition import Tree, split
from vlt.pytrees.paths import by_path
from vlt.pytrees.patterns import match_all


class RuleError(ValueError):
    """A rule list that does not fit the parameter tree, or is not a rule list."""


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
        nearest paths) and every rule whose leaves are all taken by earlier rules.
    """
    parsed = parse_rules(rules)
    paths = list(by_path(params))
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
    # Without regex metacharacters, a misspelt pattern resembles the path that was meant.
    plain = re.sub(r"[\\^$*+?(){}|\[\].]", "", rule.pattern)
    similar = difflib.get_close_matches(plain, paths, n=3, cutoff=0.3) or paths[:3]
    return (
        f"rule {rule.pattern!r} matches nothing (it must match a whole path); paths near it: "
        f"{', '.join(similar)}"
    )


def partition(params: Tree, rules: Iterable[tuple[str, Any]]) -> tuple[dict, dict]:
    """Splits a parameter tree into (trained, frozen), nested dicts without the other's leaves.

    Differentiate with respect to the first alone, and a frozen leaf costs neither a gradient nor
    optimiser state. Trained leaves are float32, even if they are stored in 16 bits, which lose
    small steps. Raises as `assign`, and for a trained leaf that is held in 8 bits.
    """
    found = assign(params, rules)
    for path, leaf in by_path(params).items():
        if not found[path].frozen and getattr(leaf, "dtype", None) == np.int8:
            raise RuleError(
                f"rule {found[path].pattern!r} trains {path}, which model.weights='int8' rounds to "
                "8 bits; hold it in more, or freeze it"
            )
    trained, frozen = split(params, lambda path: not found[path].frozen)
    return jax.tree.map(_in_full, trained), frozen


def _in_full(leaf: Any) -> Any:
    if getattr(leaf, "dtype", None) not in (np.float16, jnp.bfloat16):
        return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf.update(dtype=np.float32)
    return leaf.astype(np.float32)
