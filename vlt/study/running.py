"""Runs what is left of a plan, and keeps each run as it ends."""

import contextlib
import functools
import gc
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from vlt import configuration, main
from vlt.data.manifests.resources import resolve
from vlt.model_io.build import abstract_params
from vlt.model_io.loading import build_for_shapes
from vlt.study.claim import MEASURES
from vlt.study.kept import KeptRow, KeptRows
from vlt.study.plan import Run, hours, seconds_of
from vlt.study.side_by_side import as_they_end
from vlt.study.verdict import Scores
from vlt.tasks.twins import EVALUATIONS, TIE
from vlt.training.loop import NonFiniteError
from vlt.training.rules import partition

LOG = "log.txt"  # what runs write to stderr

Runner = Callable[[Run, Path], Scores]


def run_left(
    runs: Sequence[Run],
    kept: KeptRows,
    workdir: Path,
    runner: Runner | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Runs those that are not kept, as many at once as the machine carries. Each works in a folder
    of its own in `workdir`, from which it resumes where it was stopped, and which is removed once
    it has ended.

    A run that ends in a non-finite number is kept as failed. Anything else that is raised ends the
    study; what is kept by then stays.
    """
    left, current = kept.left(runs), {run.name: run for run in runs}
    for run in left:
        if changed := kept.changed(run):
            say(f"{run.identity}: its config has changed, it runs again: {changed}")
    workdir.mkdir(parents=True, exist_ok=True)
    run_with = functools.partial(run_one, runner=runner or measured)
    jobs = [
        functools.partial(run_with, run, workdir / run.name, identities=_identities(run, runs))
        for run in left
    ]
    # Closed by whatever is raised, so that runs under way are told to stop before it goes on.
    with contextlib.closing(as_they_end(jobs, workdir / LOG)) as ended:
        for done, row in enumerate(ended, 1):
            run = current[row.name]
            kept.add(row)
            kept.forget(run, current.keys())
            say(f"{done} of {len(left)}: {run.identity}, seed {run.seed}")
            time_left = hours(kept.pace(runs) * seconds_of(kept.left(runs)))
            say(f"  {row.failed or told(row.scores)}; {row.seconds:.0f} s, {time_left} left")


def check(runs: Sequence[Run]) -> None:
    """Checks from shapes alone, before hours of work, that each has a model and rules that fit it.

    Raises:
        ValueError: a run lacks one; the message names its row.
    """
    for run in {run.digest: run for run in runs}.values():
        try:
            model = build_for_shapes(run.config.model)
            partition(abstract_params(model), run.config.rules)
        except ValueError as error:
            raise ValueError(f"{run.identity}: {error}") from error


def _identities(run: Run, runs: Sequence[Run]) -> tuple[str, ...]:
    """The identities of all rows whose run this is."""
    return tuple(sorted({other.identity for other in (run, *runs) if other.name == run.name}))


def run_one(run: Run, folder: Path, runner: Runner, identities: tuple[str, ...]) -> KeptRow:
    """Runs one, removes its folder, and returns what to keep of it."""
    start = time.perf_counter()
    scores, failed = Scores({}), ""
    try:
        scores = runner(run, folder)
    except NonFiniteError as error:
        failed = str(error).partition(". ")[0].replace(str(folder), run.name)
    shutil.rmtree(folder, ignore_errors=True)
    jax.clear_caches()  # programs of runs that have ended
    gc.collect()
    return KeptRow(
        run.name,
        identities,
        run.seed,
        configuration.flatten(run.config),
        scores,
        time.perf_counter() - start,
        failed,
        configuration.versions()["commit"],
    )


def measured(run: Run, folder: Path) -> Scores:
    """What a run scores; what it writes to stderr goes to log.txt beside its folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.parent / LOG
    with log.open("a", encoding="utf-8") as file, contextlib.redirect_stderr(file):
        results = main.run_row(run.config, folder, "train")
    return scores_of(run.config, folder, results)


def scores_of(config: Any, folder: Path, results: Mapping[str, Any]) -> Scores:
    """The numbers of a run, the choices of its twins, and how many items each evaluation asks."""
    values = {k: float(v) for k, v in results.items() if isinstance(v, (int, float))}
    pairs, counts = {}, {}
    for name, section in config.evals.items():
        if section.kind in EVALUATIONS:
            file = folder / f"twins-{name}.json"
            pairs[name] = choices(json.loads(file.read_text(encoding="utf-8")))
        counts[name] = sum(1 for _ in _lines(resolve(section.manifest)))
    return Scores(values, pairs, counts)


def _lines(file: Path) -> Iterator[str]:
    with file.open(encoding="utf-8") as lines:
        yield from lines


def choices(pairs: Sequence[Mapping[str, Any]]) -> str:
    """A digit for each pair: each of its two videos adds 2 if it prefers its own text to its
    twin's, and 1 if it has no preference (`vlt.tasks.twins`)."""
    digits = []
    for pair in pairs:
        margins = [pair["scores"][i][i] - pair["scores"][i][1 - i] for i in (0, 1)]
        digits.append(sum(1 if abs(m) <= TIE else 2 * (m > 0) for m in margins))
    return "".join(str(digit) for digit in digits)


def told(scores: Scores) -> str:
    """The measures of a run's evaluations, in words."""
    found = (each for each in MEASURES.values() if scores.has(each) and "/" in each.key)
    return ", ".join(f"{m.title} {scores.of(m):{m.format}}" for m in found)
