"""The rule for verdicts, on made-up rows."""

import numpy as np
import pytest

from vlt.study import verdict
from vlt.study.claim import HM, Claim, Comparison, Row
from vlt.study.verdict import Runs, Scores, compare, findings_of, verdict_of

PAIRS = 520


def twins(right: float, seed: int, pairs: int = PAIRS) -> Scores:
    """A row that chooses correctly for this share of its videos."""
    videos = np.random.default_rng(seed).random((pairs, 2)) < right
    digits = 2 * videos.sum(1)
    return Scores({"twins/twins_v2t": 25.0 * digits.mean()}, {"twins": "".join(map(str, digits))})


def tied(pairs: int = PAIRS) -> Scores:
    return Scores({"twins/twins_v2t": 50.0}, {"twins": "2" * pairs})


def row(*shares: float, pairs: int = PAIRS) -> Runs:
    return Runs({seed: twins(share, seed + 100 * len(shares), pairs)
                 for seed, share in enumerate(shares)})  # fmt: skip


def numbers(key: str, *values: float, **more: float) -> Runs:
    counts = {"static": 200, "base": 1200, "novel": 1040}
    return Runs({s: Scores({key: v} | more, counts=counts) for s, v in enumerate(values)})


def found(left: Runs, right: Runs | float, **options):
    if isinstance(right, float):
        return compare(Comparison("a", right, **options), {"a": left})
    return compare(Comparison("a", "b", **options), {"a": left, "b": right})


BLIND = Runs({seed: tied() for seed in range(3)})


def test_a_difference_beyond_both_errors_holds_and_its_reverse_does_not():
    better, worse = row(0.9, 0.91, 0.9), row(0.7, 0.72, 0.71, 0.7)
    finding = found(better, worse)
    assert finding.verdict == verdict.HOLDS and finding.seeds == 3
    assert (
        finding.difference == pytest.approx(finding.left - finding.right)
        and finding.difference > 15
    )
    assert found(worse, better).verdict == verdict.DOES_NOT
    assert found(worse, better, sign=-1).verdict == verdict.HOLDS


def test_seeds_that_disagree_leave_it_undecided():
    apart = found(row(0.95, 0.6, 0.8), row(0.7, 0.7, 0.7, 0.7))
    assert apart.verdict == verdict.UNDECIDED and apart.difference > 5
    assert apart.error > 5, "the error over the seeds"


def test_the_pairs_of_twins_are_an_error_of_their_own():
    """With the same choices in each seed, seeds add no error, and the error of pairs is paired."""
    left = Runs(dict.fromkeys(range(3), twins(0.80, 1)))
    right = Runs(dict.fromkeys(range(3), twins(0.78, 2)))
    finding = found(left, right)
    digits = [np.array([int(d) for d in r.at(0).pairs["twins"]]) * 25 for r in (left, right)]
    assert finding.error == pytest.approx(np.std(digits[0] - digits[1], ddof=1) / PAIRS**0.5)
    assert finding.verdict == verdict.UNDECIDED
    one_more = Scores(left.at(0).values | {"twins/twins_v2t": 0.0}, left.at(0).pairs)
    same = found(left, Runs(dict.fromkeys(range(3), one_more)))
    assert same.error == 0, "rows that choose alike differ by no chance of the pairs"


def test_a_margin_is_what_counts_as_as_good():
    left, right = row(0.80, 0.80, 0.80), row(0.81, 0.81, 0.81, 0.81)
    assert found(left, right).verdict == verdict.UNDECIDED
    assert found(left, right, margin=8.0).verdict == verdict.HOLDS


def test_rows_that_are_blind_to_order_are_not_above_each_other():
    assert found(BLIND, BLIND).verdict == verdict.DOES_NOT
    assert found(row(0.9, 0.9, 0.9), BLIND).verdict == verdict.HOLDS
    assert found(BLIND, 50.0).verdict == verdict.DOES_NOT
    assert found(row(0.9, 0.9, 0.9), 50.0).verdict == verdict.HOLDS


def test_rows_at_the_ceiling_or_at_chance_say_that_the_clips_do_not_fit():
    perfect = Runs({seed: twins(1.0, seed) for seed in range(3)})
    easy = found(perfect, perfect)
    assert easy.verdict == verdict.UNDECIDED and "too easy" in easy.why
    chance = row(0.5, 0.5, 0.5)
    hard = found(chance, BLIND)
    assert hard.verdict == verdict.UNDECIDED and "too hard" in hard.why


@pytest.mark.parametrize(
    ("left", "why"),
    [(row(0.9, 0.9), "2 of 3 seeds"), (row(0.9, 0.9, 0.9, pairs=519), "519 of 520 pairs")],
)
def test_too_few_seeds_or_pairs_give_no_verdict(left, why):
    finding = found(left, 50.0)
    assert finding.verdict == verdict.NONE and why in finding.why


def test_a_seed_that_failed_gives_no_verdict():
    """Otherwise a row that diverges would be judged by its better seeds."""
    left = Runs(row(0.9, 0.9, 0.9).by_seed, failed=True)
    for finding in (found(left, BLIND), found(BLIND, left)):
        assert (finding.verdict, finding.why) == (verdict.NONE, "a seed failed")


def test_a_quick_study_gives_no_verdict():
    rows = {"a": row(0.9, 0.9, 0.9), "b": BLIND}
    assert compare(Comparison("a", "b"), rows, quick=True).verdict == verdict.NONE


def test_what_trains_nothing_is_one_run_for_all_seeds():
    frozen = Runs({0: tied()}, trains=False)
    assert found(row(0.9, 0.9, 0.9), frozen).seeds == 3
    plugged = Runs({0: twins(0.86, 5)}, trains=False)
    assert found(plugged, frozen).verdict == verdict.HOLDS


def test_percentages_have_the_binomial_error_of_their_answers():
    left, right = (numbers("static/t2v_R@1", *values) for values in ((80.0,) * 3, (70.0,) * 3))
    finding = found(left, right, measure="R@1")
    assert finding.error == pytest.approx(100 * (0.8 * 0.2 / 200 + 0.7 * 0.3 / 200) ** 0.5)
    assert finding.verdict == verdict.HOLDS


def test_the_harmonic_mean_has_the_error_of_its_parts():
    base, novel = 46.9, 63.7
    parts = {"base/top1": base, "novel/top1": novel}
    key = "moving_shapes_base_to_novel/harmonic_mean"
    mean = 2 * base * novel / (base + novel)
    finding = found(numbers(key, *(mean,) * 3, **parts), 40.0, measure=HM)
    rng = np.random.default_rng(0)
    drawn = [rng.binomial(n, p / 100, 20_000) / n * 100 for p, n in ((base, 1200), (novel, 1040))]
    sampled = 2 * drawn[0] * drawn[1] / (drawn[0] + drawn[1])
    assert finding.error == pytest.approx(sampled.std(), rel=0.05)


def test_costs_that_are_counted_have_no_error():
    left, right = (numbers("inspect/video_gmacs", *[value] * 3) for value in (0.0411, 0.0412))
    finding = found(left, right, measure="GMACs", sign=-1)
    assert (finding.verdict, finding.error) == (verdict.HOLDS, 0)


def test_a_claim_is_as_good_as_its_weakest_comparison():
    rows = {"a": row(0.9, 0.9, 0.9), "b": BLIND, "c": row(0.901, 0.9, 0.9, 0.9)}
    decides = (Comparison("a", "b"), Comparison("a", "c"), Comparison("b", "a"))
    claim = Claim("x", "", "ours", "", "", tuple(Row(n, "tempme") for n in "abc"), decides)
    findings = findings_of(claim, rows)
    assert [f.verdict for f in findings] == [verdict.HOLDS, verdict.UNDECIDED, verdict.DOES_NOT]
    assert verdict_of(findings[:1]) == verdict.HOLDS
    assert verdict_of(findings[:2]) == verdict.UNDECIDED
    assert verdict_of(findings) == verdict.DOES_NOT
    assert len(findings_of(claim, {"a": rows["a"], "b": BLIND})) == 2, "c was not run"


def test_names_in_comparisons_are_rows():
    with pytest.raises(ValueError, match="claim 'x'.*'b'"):
        Claim("x", "", "ours", "", "", (Row("a", "tempme"),), (Comparison("a", "b"),))
