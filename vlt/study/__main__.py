"""`vlt study`: runs what claims need that is not kept yet, and writes the page of all claims."""

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool

from absl import logging

from vlt.command_line.study import parse
from vlt.main import expected_errors
from vlt.pytrees.fields import did_you_mean
from vlt.runtime import stopping
from vlt.runtime.libraries import prepare_libraries
from vlt.runtime.stopping import Stopped
from vlt.storage.files import check_target
from vlt.study.claim import PAPERS, Claim
from vlt.study.claims import CLAIMS
from vlt.study.kept import KeptRows
from vlt.study.page import PAGE, ROWS, write_page
from vlt.study.plan import runs_of, told
from vlt.study.running import check, run_left
from vlt.study.verdict import LEAST_SEEDS


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns 0 unless a run that was asked for has failed."""
    return run(parse("python -m vlt.study", arguments))


def run(options: argparse.Namespace) -> int:
    """Runs the command with parsed arguments."""
    try:
        claims = chosen(options.claims)
        if options.list:
            print(listed(claims))
            return 0
        return _study(claims, options)
    except BrokenProcessPool:
        sys.exit("error: a run was killed, perhaps for lack of memory; the same command goes on")
    except expected_errors() as error:
        sys.exit(f"error: {error}")


def chosen(names: Sequence[str]) -> list[Claim]:
    """The claims of these names; all claims if there are no names.

    Raises:
        ValueError: there is no such claim.
    """
    for name in names:
        if name not in CLAIMS:
            raise ValueError(
                f"unknown claim {name!r}{did_you_mean(name, CLAIMS)}; choose from "
                f"{', '.join(CLAIMS)}"
            )
    return [CLAIMS[name] for name in names] or [*CLAIMS.values()]


def listed(claims: Sequence[Claim]) -> str:
    """One claim per line: its name, its sentence and its place in the paper."""
    width = max(len(claim.name) for claim in claims)
    return "\n".join(
        f"{claim.name:{width}}  {claim.sentence} ({PAPERS[claim.paper].title}, {claim.place})"
        for claim in claims
    )


def _study(claims: Sequence[Claim], options: argparse.Namespace) -> int:
    quick, seeds = options.quick, options.seeds
    if left_out := [claim.name for claim in claims if quick and not claim.quick]:
        print(f"not of a quick study: {', '.join(left_out)}", file=sys.stderr)
    if not quick and seeds < LEAST_SEEDS:
        print(f"{seeds} of {LEAST_SEEDS} seeds: no verdicts, unless more are kept", file=sys.stderr)
    runs, kept = runs_of(claims, seeds, quick), KeptRows(options.out / ROWS)
    print(told(kept.left(runs), runs, kept.pace(runs)), flush=True)
    if options.plan:
        return 0
    prepare_libraries()
    logging.set_stderrthreshold("warning")
    check_target(options.out / PAGE)
    check(kept.left(runs))
    stopped = False
    try:
        with stopping.signals():
            run_left(runs, kept, options.workdir, say=_say)
    except Stopped:
        stopped = True
    print(write_page([*CLAIMS.values()], kept, options.out, seeds, quick))
    print(f"\n{options.out / PAGE}")
    if stopped:
        print("stopped; the same command goes on", file=sys.stderr)
        stopping.end(stopping.status())
    return 1 if any(kept.by_name[run.name].failed for run in runs) else 0


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
