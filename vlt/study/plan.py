"""What a study runs: rows of claims with their seeds, each a config; and how long it takes."""

import dataclasses
import functools
import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from ml_collections import ConfigDict

from vlt import configuration
from vlt.study.claim import Claim, Row
from vlt.study.side_by_side import shares
from vlt.training.workdir import RUNTIME_KEYS

# Keys of a config that do not affect what is kept of its run.
_NOT_OF_A_RUN = (*RUNTIME_KEYS, "table", "more_tables", "compare", "repeats")
FACTS = (("inspect/video_gmacs", "GMACs"), ("inspect/tokens_to_llm", "tokens"))
QUICK_STEPS = 8  # a quick run has an eighth of the steps, at least LEAST_STEPS
LEAST_STEPS = 40
# Seconds of a run on one core beside another run, (start and evaluations, a step), by the config's
# name (benchmarks/RESULTS.md). The times of kept runs correct them.
COSTS = {
    "btadapter": (17.0, 0.27),
    "tempme": (12.0, 0.19),
    "token_mixing": (20.0, 0.325),
    "video_chat": (30.0, 0.5),
    "msta": (15.0, 0.1),
}
UNKNOWN = (20.0, 0.15)


@dataclasses.dataclass(frozen=True)
class Run:
    """A row with a seed. digest: hash of its config without the seed. quick: whether its steps are
    cut. data: knobs of its clips, as in `Claim`."""

    row: Row
    seed: int
    config: ConfigDict
    digest: str
    quick: bool = False
    data: str = ""

    @property
    def identity(self) -> str:
        """As `Row.identity`, with the knobs of the clips."""
        return " | ".join(filter(None, (self.row.identity, self.data)))

    @property
    def name(self) -> str:
        """Name of its file: the hash of the resolved config, and the seed."""
        return f"{self.digest}-seed{self.seed}{'-quick' * self.quick}"

    @property
    def seconds(self) -> float:
        """Estimated seconds on one core, beside another run."""
        start, step = COSTS.get(self.row.config.partition(":")[0], UNKNOWN)
        return start + step * self.config.train.steps


@functools.cache
def _rows_of(name: str) -> dict[str, ConfigDict]:
    return dict(configuration.rows_of(configuration.load_config(name)))


def resolved(row: Row, data: str = "", quick: bool = False) -> ConfigDict:
    """The config of a row's run, except for the seed.

    data: knobs of its moving shapes, as in `Claim`. quick: whether to cut its steps to an eighth.

    Raises:
        ConfigError: there is no such config, entry or key, or a value does not fit.
    """
    entries = _rows_of(row.config)
    title = row.entry if len(entries) > 1 or row.entry else next(iter(entries))
    if title not in entries:
        raise configuration.ConfigError(
            f"{row.config} has no row {title!r}; its rows are {', '.join(entries)}"
        )
    changes = {"repeats": (), "more_tables": {}, "table": FACTS} | dict(row.changes)
    config = configuration.apply_overrides(entries[title], changes)
    schedule: dict[str, Any] = {"train.eval_every": 0, "train.best_metric": ""}
    if quick and (steps := config.train.steps):
        schedule["train.steps"] = min(steps, max(LEAST_STEPS, steps // QUICK_STEPS))
        schedule["train.log_every"] = LEAST_STEPS // 8  # a step's time is the median of several
    config = configuration.apply_overrides(config, schedule | _harder(config, data))
    return configuration.checked(config)


def _harder(config: ConfigDict, data: str) -> dict[str, str]:
    """Overrides that put the knobs `data` into the manifests of clips."""
    if not data:
        return {}
    plain = "moving_shapes:clips:"
    sections = {"data.train": config.data.train} | {
        f"evals.{name}": section for name, section in config.evals.items()
    }
    return {
        f"{name}.manifest": section.manifest.replace(plain, f"moving_shapes:clips,{data}:")
        for name, section in sections.items()
        if section.manifest.startswith(plain)
    }


def digest(config: ConfigDict) -> str:
    """12 hexadecimal digits, the same for configs whose runs are the same but for the seed."""
    lines = configuration.resolved_text(config).splitlines()
    kept = [x for x in lines if not x.startswith(_NOT_OF_A_RUN) and not re.match("seed =", x)]
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()[:12]


_resolved: dict[tuple[str, str, bool], tuple[ConfigDict, str]] = {}  # with the digest


def run_of(claim: Claim, row: Row, seed: int, quick: bool = False) -> Run:
    """A row of a claim with a seed; one that trains nothing always has seed 0."""
    key = row.identity, claim.data, quick
    if key not in _resolved:
        config = resolved(row, claim.data, quick)
        _resolved[key] = config, digest(config)
    config, code = _resolved[key]
    if not config.train.steps:
        seed = 0
    config = configuration.apply_overrides(config, {"seed": seed})
    return Run(row, seed, config, code, quick, claim.data)


def runs_of(claims: Iterable[Claim], seeds: int, quick: bool = False) -> list[Run]:
    """All runs of the claims, each once, those of a seed before those of the next. Rows that decide
    nothing run with one seed, and not at all in a quick study."""
    claims = [claim for claim in claims if claim.quick or not quick]
    found: dict[str, Run] = {}
    for seed in range(seeds):
        for claim in claims:
            for row in claim.deciding if quick or seed else claim.rows:
                run = run_of(claim, row, seed, quick)
                found.setdefault(run.name, run)
    return list(found.values())


def seconds_of(runs: Sequence[Run]) -> float:
    """Estimated seconds of all runs, as many at once as this machine carries."""
    return sum(run.seconds for run in runs) / len(shares(len(runs)))


def hours(seconds: float) -> str:
    """Formats seconds, as in "5 h 20 min"."""
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def told(left: Sequence[Run], every: Sequence[Run], pace: float) -> str:
    """The plan in words: what is to be run, by config, and how long that takes. pace: seconds that
    runs took as a multiple of their estimate."""
    lines = [f"{len(every)} runs, {len(every) - len(left)} of them kept"]
    names = dict.fromkeys(run.row.config.partition(":")[0] for run in left)
    for name in names:
        own = [run for run in left if run.row.config.partition(":")[0] == name]
        steps = sum(run.config.train.steps for run in own)
        time = hours(pace * seconds_of(own))
        lines.append(f"  {name:14}{len(own):4} runs {steps:9,} steps  about {time}")
    at_once = len(shares(len(left)))
    return "\n".join([*lines, f"about {hours(pace * seconds_of(left))}, {at_once} at once"])
