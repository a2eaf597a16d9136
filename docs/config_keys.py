"""The page of config keys: those of configs/common.py, with their comments and bounds."""

import inspect
from collections.abc import Iterator, Mapping

from configs import common
from docs.markdown import code, codes, may_be, prose, table, text
from vlt.command_line.keys import Told, sections_of, words_of
from vlt.configuration.values import literal
from vlt.evaluation import KINDS
from vlt.training.schedules import SCHEDULES, schedule_options

INTRO = """\
# Config keys

Look up here what a config can set: every key, its default, what it may be and what it does. A value
is replaced on the command line, as by `--config.train.steps=100`, or in a config of your own, by
`config.train.steps = 100`. `vlt train --config=NAME --help` lists the keys of one config with its
own values; options of methods have [their own page](methods.md).

Defaults are those of [configs/common.py](../../configs/common.py); where none is shown, each config
gives its own. A number out of its bounds is refused before anything is run."""

EVALUATIONS = """\
What is measured: sections of `evals`, each of a `kind`, with the keys of its [data](#data) besides.
[Another page](protocols.md) has the names for `protocol`."""

SECTIONS = sections_of(inspect.getsource(common))
# Parameters of the functions and their types: each config gives its own value for such a key.
PARAMETERS = {
    name: getattr(each.annotation, "__name__", "")
    for function in SECTIONS
    for name, each in inspect.signature(getattr(common, function)).parameters.items()
}
TASKS = [function for function in SECTIONS if function.endswith("_task")]


def config_keys() -> str:
    """The page."""
    parts = [INTRO, *_every_config(), "### `sharding`", prose(common.sharding.__doc__)]
    parts += [
        _table("sharding.", SECTIONS["sharding"]),
        "## Data",
        "Of `data.train`, and of each section of `evals`. Samplers, and steps of `transform`, are "
        "on [their own page](videos.md).",
        _table("data.train.", SECTIONS["videos"]),
        "## Tasks",
        "What is trained for, by `task.name`. That of the table above is `retrieval`.",
    ]
    for function in TASKS:
        parts += [f"### Task {SECTIONS[function]['name'].default}".replace("'", "`")]
        told = {key: of for key, of in SECTIONS[function].items() if key != "name"}
        parts += [prose(getattr(common, function).__doc__), _table("task.", told)]
    parts += ["## Evaluations", EVALUATIONS]
    parts += [part for name in KINDS for part in _evaluation(name)]
    parts += ["## Schedules", "Learning rates over the steps, by `optimizer.schedule.name`."]
    for name, schedule in SCHEDULES.items():
        parts += [f"### Schedule `{name}`", prose(schedule.__doc__)]
        parts += [f"Options: {codes(schedule_options(name)) or 'none'}."]
    return "\n\n".join(parts)


def _every_config() -> Iterator[str]:
    """A table of the top-level keys, and one for each section."""
    base = {key: told for key, told in SECTIONS["base"].items() if key != "sharding"}
    sections = dict.fromkeys(key.partition(".")[0] for key in base if "." in key)
    yield "## Every config"
    yield _table("", {k: of for k, of in base.items() if "." not in k and k not in sections})
    for section in sections:
        yield f"### `{section}`"
        yield _table("", {key: of for key, of in base.items() if key.startswith(f"{section}.")})


def _evaluation(name: str) -> Iterator[str]:
    """Heading, description and keys of a kind of evaluation."""
    kind = KINDS[name]
    made = {function: told for function, told in SECTIONS.items() if "kind" in told}
    own = next((told for told in made.values() if literal(told["kind"].default) == name), {})
    told = {key: of for each in (*made.values(), own) for key, of in each.items()}
    sections = {*kind.keys, *own} - {"kind"}
    yield f"### Evaluation `{name}`"
    yield f"Of models of kind `{kind.model}`. {prose(kind.run.__doc__, ['Raises'])}"
    yield _table(
        "evals.NAME.", {key: of for key, of in told.items() if key.partition(".")[0] in sections}
    )


def _table(prefix: str, told: Mapping[str, Told]) -> str:
    """A table of the keys of a section that hold no other keys."""
    keys = [key for key in told if not any(other.startswith(f"{key}.") for other in told)]
    header = ("key", "default", "may be", "does")
    return table(header, (_row(prefix + key, told[key].default) for key in keys))


def _row(key: str, default: str) -> tuple[str, str, str, str]:
    given = default in PARAMETERS
    value = literal(default)
    kind = PARAMETERS[default] if given else type(value).__name__
    shown = "" if given else code(default)
    return code(key), shown, may_be(key, kind), text(words_of(key, SECTIONS))
