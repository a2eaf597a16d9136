"""CLAIMS.md: the result of every claim, from what is kept of its rows."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlt.reporting.tables import DEVIATION, Column, format_markdown
from vlt.storage.files import write_whole
from vlt.study import verdict
from vlt.study.claim import MEASURES, PAPERS, Claim, Comparison
from vlt.study.kept import KeptRow, KeptRows
from vlt.study.pictures import draw_claim, save
from vlt.study.plan import hours, run_of, runs_of
from vlt.study.verdict import Finding, Runs, Scores, findings_of, verdict_of

PAGE, PICTURES, ROWS = "CLAIMS.md", "pictures", "claims"
NOT_RUN = "not run"
SHOWN = 3  # comparisons in a line of the first table
ORDER = {True: "yes", False: "no", None: ""}
ABOVE = {1: "above", -1: "below"}


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of a claim. rows: runs by row name, where a row has scores. kept: all kept rows.
    left: how many runs are not kept. verdict: that of all comparisons, or why there is none."""

    claim: Claim
    rows: Mapping[str, Runs]
    kept: Sequence[KeptRow]
    left: int
    findings: Sequence[Finding]

    @property
    def verdict(self) -> str:
        if len(self.findings) < len(self.claim.decides):
            if any(row.failed for row in self.kept):
                return "no verdict: a row failed"
            if not self.left:
                return "not of a quick study"
            return "not all run" if self.kept else NOT_RUN
        found = verdict_of(self.findings)
        if found != verdict.NONE:
            return found
        return f"{found}: {next(f.why for f in self.findings if f.verdict == found)}"


def result_of(claim: Claim, kept: KeptRows, seeds: int, quick: bool) -> Result:
    """The result of a claim, from what is kept of its rows with the first `seeds` seeds."""
    rows: dict[str, Runs] = {}
    found: dict[str, KeptRow] = {}
    names = {run.name for run in runs_of([claim], seeds, quick)}
    for row in claim.rows:
        runs = [run_of(claim, row, seed, quick) for seed in range(seeds)]
        there = {run.seed: kept.by_name[run.name] for run in runs if run.name in kept.by_name}
        found |= {each.name: each for each in there.values()}
        scores = {seed: each.scores for seed, each in there.items() if not each.failed}
        if scores:
            failed = len(scores) < len(there)
            rows[row.name] = Runs(scores, bool(runs[0].config.train.steps), failed)
    findings = findings_of(claim, rows, quick)
    return Result(claim, rows, [*found.values()], len(names - {*found}), findings)


def write_page(
    claims: Sequence[Claim], kept: KeptRows, out: Path, seeds: int, quick: bool = False
) -> str:
    """Writes OUT/CLAIMS.md and the pictures; returns the first table as text.

    seeds: how many there are at least; more that are kept count as well, except in a quick study.
    """
    if not quick:
        seeds = max([seeds, *(row.seed + 1 for row in kept.by_name.values())])
    results = [result_of(claim, kept, seeds, quick) for claim in claims]
    table = _table(results, quick)
    parts = [_title(quick), _counted(results), table, _about(results, seeds, quick), _rule()]
    for result in results:
        image = draw_claim(result.claim, result.rows)
        if image is not None:
            save(image, out / PICTURES / f"claim-{result.claim.name}.png")
        parts.append(_section(result, image is not None, quick))
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / PAGE, "\n\n".join(parts) + "\n")
    return table


def command_of(claims: Sequence[str], quick: bool) -> str:
    chosen = f" --claims={','.join(claims)}" if claims else ""
    return f"python -m vlt.study{chosen}{' --quick' * quick}"


def _title(quick: bool) -> str:
    marked = "**A quick study: an eighth of the steps, one seed, few rows, no verdicts.**"
    return "\n\n".join(["# Claims of the papers, in miniature", *([marked] * quick)])


def _counted(results: Sequence[Result]) -> str:
    """How many claims have each verdict."""
    found = Counter(result.verdict.partition(":")[0] for result in results)
    told = ", ".join(f"{count} {name}" for name, count in found.most_common())
    return f"Of {len(results)} claims: {told}."


def _about(results: Sequence[Result], seeds: int, quick: bool) -> str:
    """How the page was made, and what it says."""
    kept = {row.name: row for result in results for row in result.kept}
    commits = sorted({row.commit[:12] for row in kept.values()})
    spent = sum(row.seconds for row in kept.values())
    lines = [
        f"Made by `{command_of((), quick)}`: {len(kept)} runs, {seeds} seed{'s' * (seeds > 1)}, "
        f"{hours(spent)} in sum, at {', '.join(commits) or 'no commit'}. No line of this page is "
        "written by hand. Times of a step are those of the machine while a row ran.",
        "Each claim of a paper is tested where it can be measured exactly: on moving shapes, whose "
        "twins (a clip, and its frames in reverse order) need the order of frames, and whose looks "
        "need nothing else. That a claim fails here says nothing of the paper's own setting, and "
        "below each that does stands what is other here.",
    ]
    return "\n\n".join(lines)


def _rule() -> str:
    """The rule of verdicts, from the docstring of the module that computes them."""
    rule = (verdict.__doc__ or "").partition("\n\n")[2]
    return f"## How a verdict is made\n\n{rule.strip()}"


def _table(results: Sequence[Result], quick: bool) -> str:
    titles = ("claim", "the paper", "ours", "verdict", "command")
    columns = [Column(title, title) for title in titles]
    rows = [
        {
            "claim": f"[{r.claim.name}](#{r.claim.name}): {r.claim.sentence}",
            "the paper": f"{PAPERS[r.claim.paper].title}, {r.claim.place}: {r.claim.numbers}",
            "ours": _ours(r.findings),
            "verdict": f"**{r.verdict}**",
            "command": f"`{command_of((r.claim.name,), quick)}`",
        }
        for r in results
    ]
    return format_markdown(rows, columns)


def _ours(findings: Sequence[Finding]) -> str:
    """The comparisons in words; if there are many, those furthest from holding."""
    order = (verdict.DOES_NOT, verdict.UNDECIDED, verdict.NONE, verdict.HOLDS)
    first = sorted(findings, key=lambda finding: order.index(finding.verdict))
    told = [_in_words(finding) for finding in first[:SHOWN]]
    if len(findings) > SHOWN:
        hold = sum(finding.verdict == verdict.HOLDS for finding in findings)
        told.append(f"{len(findings)} comparisons in all, of which {hold} hold")
    return "; ".join(told) or NOT_RUN


def _in_words(finding: Finding) -> str:
    measure = MEASURES[finding.comparison.measure]
    left, right = (format(x, measure.format) for x in (finding.left, finding.right))
    apart = f"{finding.difference:+{measure.format}} +-{2 * finding.error:{measure.format}}"
    both = f"{finding.comparison.left} {left}, {_right(finding.comparison, right)}"
    return f"{both} ({measure.title}, {apart})"


def _right(comparison: Comparison, text: str) -> str:
    name = comparison.right if isinstance(comparison.right, str) else "chance"
    return f"{name} {text}"


def _section(result: Result, drawn: bool, quick: bool) -> str:
    claim, paper = result.claim, PAPERS[result.claim.paper]
    lines = [
        f"## {claim.name}",
        f"{claim.sentence} ({paper.title}, {claim.place})",
        f"The paper: {claim.numbers}.",
        f"**{result.verdict}**; {len(result.kept)} runs, {result.left} not run. "
        f"`{command_of((claim.name,), quick)}`",
    ]
    if drawn:
        lines.append(f"![{claim.sentence}]({PICTURES}/claim-{claim.name}.png)")
    if result.rows:
        lines.append(_rows(result))
    if result.findings:
        lines.append(_comparisons(result.findings))
    lines += _remarks(result)
    return "\n\n".join(lines)


def _remarks(result: Result) -> list[str]:
    claim = result.claim
    found = [claim.note] if claim.note else []
    if claim.data:
        found.append(
            f"All rows are trained and tested on harder clips ({claim.data}), since on plain ones "
            "the best rows have nothing left to gain."
        )
    if result.verdict in (verdict.DOES_NOT, verdict.UNDECIDED):
        found.append(f"What differs: {PAPERS[claim.paper].differs}.")
    if any(finding.why.startswith("too") for finding in result.findings):
        found.append(
            "Comparisons that are too easy or too hard want harder clips, or easier ones: "
            "`data` of the claim (vlt/data/moving_shapes/knobs.py)."
        )
    return found + [f"Failed: {row.name}: {row.failed}." for row in result.kept if row.failed]


def _rows(result: Result) -> str:
    """A line for each row: means over the seeds, with deviations."""
    measures = [MEASURES[name] for name in result.claim.columns]
    columns = [Column(m.key, m.title, m.format) for m in measures]
    asked = any(row.order is not None for row in result.claim.rows)
    sees = [Column("order", "sees order")] if asked else []
    rows = []
    for row in result.claim.rows:
        runs = result.rows.get(row.name)
        cells: dict[str, Any] = {"row": row.name, "order": ORDER[row.order], "seeds": "-"}
        if runs:
            cells |= {"seeds": str(len(runs.by_seed)) if runs.trains else "any"}
            cells |= _means([*runs.by_seed.values()], result.claim.columns)
        rows.append(cells)
    return format_markdown(rows, [Column("row", "row"), *sees, *columns, Column("seeds", "seeds")])


def _means(runs: Sequence[Scores], names: Sequence[str]) -> dict[str, float]:
    cells: dict[str, float] = {}
    for name in names:
        measure = MEASURES[name]
        values = [scores.of(measure) for scores in runs if scores.has(measure)]
        if values:
            cells[measure.key] = float(np.mean(values))
            if len(values) > 1 and measure.chance != "none" and name != "step":
                cells[f"{measure.key}{DEVIATION}"] = float(np.std(values))
    return cells


def _comparisons(findings: Sequence[Finding]) -> str:
    columns = [
        Column(title, title)
        for title in ("comparison", "measure", "difference", "twice its error", "seeds", "verdict")
    ]
    rows = []
    for finding in findings:
        each, measure = finding.comparison, MEASURES[finding.comparison.measure]
        right = each.right if isinstance(each.right, str) else f"{each.right:g}"
        margin = f", less {each.margin:g}" if each.margin else ""
        rows.append(
            {
                "comparison": f"{each.left} {ABOVE[each.sign]} {right}{margin}",
                "measure": measure.title,
                "difference": format(finding.difference, f"+{measure.format}"),
                "twice its error": format(2 * finding.error, measure.format),
                "seeds": str(finding.seeds),
                "verdict": ": ".join(filter(None, (finding.verdict, finding.why))),
            }
        )
    return format_markdown(rows, columns)
