"""Verdicts, computed from what is kept.

The rule. For each comparison, the difference between the two rows is taken seed by seed. Its mean
over the seeds, in the direction that the claim states, plus the comparison's margin, is compared
with twice its error. The error is the root of the sum of the squares of two errors:

- of training: the standard error of the mean over the seeds, of which there must be 3;
- of the test: for twins, the standard error of the mean over the pairs, of which there must be 520,
  of the difference between the rows' choices (the binomial error of pairs, for models that are
  asked the same); for percentages of n answers, the binomial errors of both rows, as if they were
  asked different things, sqrt(p (1 - p) / n) each. Costs that are counted have none.

A comparison `holds` above twice the error; it `does not` at minus twice the error or below, and,
without a margin, if the two rows are exactly equal in every seed and pair, since neither is then
above the other; otherwise it is `undecided`. If both rows are above 99%, nothing is left to differ
in, and it is undecided. A claim holds if all its comparisons do, and does not if one of them does
not. If a seed of a row that is compared ended in a number that is not finite, there is no verdict.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlt.study.claim import HM, MEASURES, Claim, Comparison, Measure

HOLDS, DOES_NOT, UNDECIDED, NONE = "holds", "does not", "undecided", "no verdict"
LEAST_SEEDS, LEAST_PAIRS = 3, 520
CEILING, FLOOR = 99.0, 51.0  # percent
CHOICES = 4  # most of a pair: two videos, each wrong (0), neither (1) or right (2), added up


@dataclasses.dataclass(frozen=True)
class Scores:
    """values: numbers of a run by key. pairs: for each evaluation of twins, a digit for each pair,
    0 to `CHOICES`. counts: for each evaluation, how many items are asked."""

    values: Mapping[str, float]
    pairs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def of(self, measure: Measure) -> float:
        return self.values[measure.key]

    def has(self, measure: Measure) -> bool:
        return measure.key in self.values


@dataclasses.dataclass(frozen=True)
class Runs:
    """The runs of a row by seed; if it trains nothing, its one run stands for all seeds. failed:
    whether others of its seeds ended without scores."""

    by_seed: Mapping[int, Scores]
    trains: bool = True
    failed: bool = False

    def at(self, seed: int) -> Scores:
        return self.by_seed[seed] if self.trains else next(iter(self.by_seed.values()))


@dataclasses.dataclass(frozen=True)
class Finding:
    """The outcome of a comparison.

    left, right: means over the seeds. difference: how far left is above right. error: standard
    error of that. why: the reason for no decision, if there is one other than the difference.
    """

    comparison: Comparison
    left: float
    right: float
    difference: float
    error: float
    seeds: int
    verdict: str
    why: str = ""


def compare(comparison: Comparison, rows: Mapping[str, Runs], quick: bool = False) -> Finding:
    """The finding of a comparison, over the seeds that both rows have. quick: if runs were cut.

    Raises:
        KeyError: a row has no run, or lacks the measure.
    """
    measure = MEASURES[comparison.measure]
    names = [n for n in (comparison.left, comparison.right) if isinstance(n, str)]
    trained = [rows[name] for name in names if rows[name].trains]
    seeds = sorted(set.intersection(*({*runs.by_seed} for runs in trained))) if trained else [0]
    first = [rows[comparison.left].at(seed) for seed in seeds]
    second = _other(comparison.right, rows, seeds)
    values = np.array([[_value(x, measure) for x in side] for side in (first, second)])
    differences = values[0] - values[1]
    error = math.hypot(_seed_error(differences), _test_error(measure, first, second))
    difference = float(differences.mean())
    means = [float(mean) for mean in values.mean(1)]
    verdict, why = _judged(comparison, measure, means, difference, error)
    if trained and len(seeds) < LEAST_SEEDS:
        verdict, why = NONE, f"{len(seeds)} of {LEAST_SEEDS} seeds"
    pairs = min((len(each.pairs.get(measure.evaluation, "")) for each in first), default=0)
    if measure.chance == "pairs" and pairs < LEAST_PAIRS:
        verdict, why = NONE, f"{pairs} of {LEAST_PAIRS} pairs of twins"
    if any(rows[name].failed for name in names):  # the seeds that are left flatter its row
        verdict, why = NONE, "a seed failed"
    if quick:
        verdict, why = NONE, "a quick study"
    left, right = means
    return Finding(comparison, left, right, difference, error, len(seeds), verdict, why)


def _other(
    right: str | float, rows: Mapping[str, Runs], seeds: Sequence[int]
) -> Sequence[Scores | float]:
    if isinstance(right, str):
        return [rows[right].at(seed) for seed in seeds]
    return [float(right)] * len(seeds)


def _judged(
    comparison: Comparison,
    measure: Measure,
    means: Sequence[float],
    difference: float,
    error: float,
) -> tuple[str, str]:
    """The verdict by the rule, and the reason if that is not the difference alone."""
    if measure.chance in ("pairs", "items") and min(means) > CEILING:
        return UNDECIDED, f"too easy: both above {CEILING:g}%"
    shortfall = comparison.sign * difference + comparison.margin
    if shortfall > 2 * error:
        return HOLDS, ""
    if shortfall <= -2 * error:
        return DOES_NOT, ""
    hard = measure.chance == "pairs" and max(means) < FLOOR
    return UNDECIDED, f"too hard: both below {FLOOR:g}%" if hard else ""


def _value(scores: Scores | float, measure: Measure) -> float:
    return scores if isinstance(scores, float) else scores.of(measure)


def _seed_error(differences: np.ndarray) -> float:
    count = len(differences)
    return float(differences.std(ddof=1) / math.sqrt(count)) if count > 1 else 0.0


def _test_error(
    measure: Measure, first: Sequence[Scores | float], second: Sequence[Scores | float]
) -> float:
    """Standard error due to the test set, in the measure's unit."""
    if measure.chance == "pairs":
        shares = [_choices(side, measure) for side in (first, second)]
        return float(np.std(shares[0] - shares[1], ddof=1) / math.sqrt(np.size(shares[0])))
    if measure.chance == "items":
        return math.hypot(_item_error(first, measure), _item_error(second, measure))
    return 0.0


def _choices(side: Sequence[Scores | float], measure: Measure) -> Any:
    """Percent of each pair that is right, averaged over seeds: [pairs]; a number stays as it is."""
    found: list[Any] = [
        each
        if isinstance(each, float)
        else 100 / CHOICES * np.array([int(digit) for digit in each.pairs[measure.evaluation]])
        for each in side
    ]
    return np.mean(found, axis=0)


def _item_error(side: Sequence[Scores | float], measure: Measure) -> float:
    """Binomial error of a mean of percentages; for the harmonic mean, from its two parts."""
    runs = [each for each in side if isinstance(each, Scores)]
    if not runs:
        return 0.0
    if measure is MEASURES[HM]:
        parts = [MEASURES["base"], MEASURES["novel"]]
        base, novel = (float(np.mean([each.of(part) for each in runs])) for part in parts)
        slopes = 2 * np.array([novel, base]) ** 2 / max(base + novel, 1e-9) ** 2
        errors = [_item_error(runs, part) for part in parts]
        return math.hypot(*(slopes * errors))
    share = float(np.mean([each.of(measure) for each in runs])) / 100
    return 100 * math.sqrt(share * (1 - share) / runs[0].counts[measure.evaluation])


def verdict_of(findings: Sequence[Finding]) -> str:
    """The verdict of a claim, from the findings of its comparisons."""
    verdicts = [finding.verdict for finding in findings]
    for one in (NONE, DOES_NOT, UNDECIDED):
        if one in verdicts:
            return one
    return HOLDS


def findings_of(claim: Claim, rows: Mapping[str, Runs], quick: bool = False) -> list[Finding]:
    """The findings of all comparisons of a claim whose rows have runs with a common seed."""
    found = []
    for comparison in claim.decides:
        names = [n for n in (comparison.left, comparison.right) if isinstance(n, str)]
        runs = [rows[name] for name in names if name in rows and rows[name].by_seed]
        trained = [{*each.by_seed} for each in runs if each.trains]
        if len(runs) == len(names) and (not trained or set.intersection(*trained)):
            found.append(compare(comparison, rows, quick))
    return found
