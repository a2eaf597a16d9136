"""Conversion tables: ordered rules between published tensor names and parameter paths, both ways.

A rule's names are templates in which `{i}` stands for a number. The matcher is strict: it collects
everything that does not fit and leaves nothing out.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable
from functools import cached_property

import numpy as np

from vlt.convert.files.arrays import Tensors


@dataclasses.dataclass(frozen=True)
class Transform:
    """How one published tensor becomes one or more leaves, and back.

    rank: of the tensor; None for any. heads: its axis of attention heads, which `join` leaves
    merged with the next axis, the channels of a head.
    """

    name: str
    rank: int | None
    split: Callable[[np.ndarray], list[np.ndarray]]
    join: Callable[[list[np.ndarray]], np.ndarray]
    heads: int | None = None

    def tensor(self, parts: list[np.ndarray], heads: int) -> np.ndarray:
        """The published tensor, with this number of heads, from the leaves that it became."""
        joined, axis = self.join(parts), self.heads
        if axis is None:
            return joined
        return joined.reshape(*joined.shape[:axis], heads, -1, *joined.shape[axis + 1 :])


def _thirds(x: np.ndarray) -> list[np.ndarray]:
    return np.split(x, 3, axis=0)


def _drop_axes(count: int, rank: int) -> Transform:
    return Transform(
        f"drop {count} unit {'axis' if count == 1 else 'axes'}",
        rank,
        lambda x: [x.squeeze(axis=tuple(range(count)))],
        lambda parts: parts[0].reshape((1,) * count + parts[0].shape),
    )


KEEP = Transform("", None, lambda x: [x], lambda parts: parts[0])
LINEAR = Transform("transpose", 2, lambda x: [x.T], lambda parts: parts[0].T)
CONV = Transform(
    "OIHW -> HWIO",
    4,
    lambda x: [x.transpose(2, 3, 1, 0)],
    lambda parts: parts[0].transpose(3, 2, 0, 1),
)
SPLIT = Transform("split q|k|v", 1, _thirds, np.concatenate)
SPLIT_LINEAR = Transform(
    "split q|k|v, transpose",
    2,
    lambda x: [part.T for part in _thirds(x)],
    lambda parts: np.concatenate([part.T for part in parts]),
)
# For Flax's attention: kernels [d, h, d/h] and biases [h, d/h] of queries, keys and values, and the
# output kernel [h, d/h, d].
HEADS = Transform("join heads", 3, lambda x: [x.reshape(len(x), -1)], KEEP.join, heads=1)
HEADS_BIAS = Transform("join heads", 2, lambda x: [x.reshape(-1)], KEEP.join, heads=0)
HEADS_OUT = Transform("join heads", 3, lambda x: [x.reshape(-1, x.shape[2])], KEEP.join, heads=0)
# VideoPrism's output kernel [d, h, d/h].
HEADS_FIRST = Transform(
    "join heads, transpose", 3, lambda x: [x.reshape(len(x), -1).T], LINEAR.join, heads=1
)
SCALAR = _drop_axes(1, 1)
FIRST_OF_1 = _drop_axes(1, 2)
FIRST_OF_2 = _drop_axes(1, 3)
FIRST_OF_3 = _drop_axes(2, 3)
MIDDLE_OF_4 = Transform(
    "drop 2 unit axes",
    4,
    lambda x: [x.squeeze(axis=(0, 2))],
    lambda parts: parts[0][None, :, None],
)


@dataclasses.dataclass(frozen=True)
class Rule:
    """source: published name. targets: '/'-joined paths of the leaves it becomes.

    numbers: range of `{i}` in the targets, where numbers continue those of another stack; in the
    source they start from 0.
    """

    source: str
    targets: tuple[str, ...]
    transform: Transform = KEEP
    numbers: range | None = None

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Matches published names."""
        return _pattern(self.source)

    def paths(self, index: int | None) -> tuple[str, ...]:
        """Paths of the leaves that the tensor with this number becomes."""
        number = "" if index is None else str(index + (self.numbers.start if self.numbers else 0))
        return tuple(target.replace("{i}", number) for target in self.targets)

    def source_of(self, path: str, target: int = 0) -> tuple[str, int | None] | None:
        """Name and number of the tensor that becomes the leaf at `path`, if this target fits it."""
        match = self._target_patterns[target].fullmatch(path)
        if not match:
            return None
        if not match.re.groups:
            return self.source, None
        index = int(match[1])
        if self.numbers is not None and index not in self.numbers:
            return None
        index -= self.numbers.start if self.numbers else 0
        return self.source.replace("{i}", str(index)), index

    @cached_property
    def _target_patterns(self) -> list[re.Pattern[str]]:
        return [_pattern(target) for target in self.targets]


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.escape(template).replace(r"\{i\}", r"(0|[1-9][0-9]{0,4})"))


@dataclasses.dataclass(frozen=True)
class Row:
    """One tensor that found its place. index: the number that `{i}` stands for."""

    source: str
    shape: tuple[int, ...]
    dtype: str
    rule: Rule
    index: int | None

    @property
    def targets(self) -> tuple[str, ...]:
        """Paths of the leaves that it became."""
        return self.rule.paths(self.index)


@dataclasses.dataclass
class Placed:
    """leaves: by path, as views of the tensors. rows: one per tensor that found its place. dropped:
    buffers without weights. left_out: tensors that only training or another model reads.
    unexpected, wrong_shape: {published name: what is wrong}."""

    leaves: Tensors = dataclasses.field(default_factory=dict)
    rows: list[Row] = dataclasses.field(default_factory=list)
    dropped: list[str] = dataclasses.field(default_factory=list)
    left_out: list[str] = dataclasses.field(default_factory=list)
    unexpected: dict[str, str] = dataclasses.field(default_factory=dict)
    wrong_shape: dict[str, str] = dataclasses.field(default_factory=dict)


def to_leaves(
    rules: Iterable[Rule],
    tensors: Tensors,
    canonical: Callable[[str], str],
    dropped: str,
    left_out: str,
) -> Placed:
    """Published tensors -> leaves; the first rule that matches wins, and failures are collected.

    canonical: brings a published name to the spelling of the rules. dropped, left_out: regexes of
    the names that `Placed` lists in these fields.
    """
    rules = tuple(rules)
    placed = Placed()
    for name, tensor in tensors.items():
        spelled = canonical(name)
        found = next(((r, m) for r in rules if (m := r.pattern.fullmatch(spelled))), None)
        if re.fullmatch(dropped, spelled):
            placed.dropped.append(name)
        elif re.fullmatch(left_out, spelled):
            placed.left_out.append(name)
        elif found is None:
            placed.unexpected[name] = str(list(tensor.shape))
        else:
            _place(placed, name, tensor, *found)
    return placed


def _place(placed: Placed, name: str, tensor: np.ndarray, rule: Rule, match: re.Match[str]) -> None:
    index = int(match[1]) if match.re.groups else None
    targets = rule.paths(index)
    if targets[0] in placed.leaves:
        placed.unexpected[name] = f"a second tensor for {targets[0]}"
        return
    try:
        parts = _split(rule.transform, tensor)
    except ValueError as error:
        placed.wrong_shape[name] = f"{list(tensor.shape)}, {error}"
        return
    placed.leaves |= dict(zip(targets, parts, strict=True))
    placed.rows.append(Row(name, tensor.shape, str(tensor.dtype), rule, index))


def _split(transform: Transform, tensor: np.ndarray) -> list[np.ndarray]:
    if transform.rank is not None and tensor.ndim != transform.rank:
        raise ValueError(f"it must have {transform.rank} axes")
    return transform.split(tensor)


def to_tensors(
    rules: Iterable[Rule], leaves: Tensors, heads: Callable[[str], int] = lambda path: 1
) -> tuple[Tensors, list[str]]:
    """Leaves -> published tensors, and the paths that no rule has a place for.

    heads: returns the number of heads of the attention that the leaf at a path belongs to.
    """
    sources, left = sources_of(rules, leaves)
    tensors = {
        name: rule.transform.tensor([leaves[target] for target in targets], heads(targets[0]))
        for name, (rule, targets) in sources.items()
    }
    return tensors, left


def sources_of(
    rules: Iterable[Rule], paths: Iterable[str]
) -> tuple[dict[str, tuple[Rule, tuple[str, ...]]], list[str]]:
    """{published name: (rule, paths of the leaves that make it)}, and paths without a place."""
    rules, paths = tuple(rules), tuple(paths)
    found: dict[str, tuple[Rule, tuple[str, ...]]] = {}
    left = set(paths)
    for path in paths:
        for rule in rules:
            if not (source := rule.source_of(path)):
                continue
            targets = rule.paths(source[1])
            if left.issuperset(targets):
                found[source[0]] = (rule, targets)
                left -= set(targets)
                break
    return found, sorted(left)


def source_name(rules: Iterable[Rule], path: str) -> str:
    """Published name of the tensor that holds the leaf at `path`; the path if there is none."""
    for rule in rules:
        for target in range(len(rule.targets)):
            if source := rule.source_of(path, target):
                return source[0]
    return path
