"""What the tuples and dicts of a config must hold, whatever they are used for.

One table for every command, as `vlt.configuration.bounds` is for numbers. What depends on the
model, the data or the mesh (whether a rule matches a leaf, whether an axis exists) is checked where
that is known.
"""

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from vlt.pytrees.fields import shown

Check = Callable[[Any], bool]


def word(value: Any) -> bool:
    """Whether it is a string that is not empty."""
    return isinstance(value, str) and bool(value)


def text(value: Any) -> bool:
    """Whether it is a string, which may be empty."""
    return isinstance(value, str)


def pattern(value: Any) -> bool:
    """Whether it is a valid regex."""
    try:
        return isinstance(value, str) and re.compile(value) is not None
    except re.error:
        return False


def section(value: Any) -> bool:
    """Whether it is a dict whose keys are strings."""
    return hasattr(value, "items") and all(isinstance(key, str) for key, _ in value.items())


def number(value: Any) -> bool:
    """Whether it is a number, which a boolean is not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def treatment(value: Any) -> bool:
    """Whether it is the treatment of a leaf in a rule: a string or a section."""
    return isinstance(value, str) or section(value)


def axes(value: Any) -> bool:
    """Whether it names the axes of the mesh that split one dimension, or is None."""
    return value is None or word(value) or each(word)(value)


def each(check: Check) -> Check:
    """A check for tuples of any length whose parts all pass `check`."""
    return lambda value: isinstance(value, (list, tuple)) and all(map(check, value))


def entry(*checks: Check, more: int = 0) -> Check:
    """A check for tuples with one part for each of `checks`; the last `more` may be absent."""

    def fits(value: Any) -> bool:
        least, most = len(checks) - more, len(checks)
        return (
            isinstance(value, (list, tuple))
            and least <= len(value) <= most
            and all(check(part) for check, part in zip(checks, value, strict=False))
        )

    return fits


def values(check: Check) -> Check:
    """A check for dicts, by name, whose values all pass `check`."""
    return lambda value: section(value) and all(check(part) for _, part in value.items())


COLUMNS = each(entry(word, text, text, more=1))
COLUMNS_WANTED = "of columns, each (metric, title) or (metric, title, format)"
ROWS = each(entry(text, section))
ROWS_WANTED = "a tuple of rows, each (name, {dotted key: value})"
# Regex of a dotted key, the check of its value, and what it must be in words. Every entry that
# matches counts, and sections come before what is in them.
FORMS: tuple[tuple[str, Check, str], ...] = (
    (
        r"(model|optimizer|task|data|evals|train|mesh|sharding|data\.train|evals\.\w+)",
        section,
        "a dict of settings by name",
    ),
    (
        r"evals\.train",
        lambda value: False,
        "under another name than `train`, which training data have in skipped.jsonl",
    ),
    (r"(data\.train|evals\.\w+)\.(sampler|transform|search)", section, "a dict of options by name"),
    (r"model\.video|task\.interpolation", section, "a dict of options by name"),
    (r"optimizer\.schedule", section, "a dict with the schedule's `name`, and its options"),
    (r"task\.losses", values(number), "a dict of weights by name, such as {'vtc': 1.0}"),
    (r"model\.methods", each(word), "a tuple of names of methods, such as ('lora', 'tempme')"),
    (
        r"model\.parts",
        each(entry(word, word)),
        "a tuple of (path of leaves, model folder), such as (('visual/btadapter', 'FOLDER'),)",
    ),
    (
        "rules",
        each(entry(pattern, treatment)),
        "a tuple of (regex of a leaf's path, 'frozen' or {'lr': multiplier})",
    ),
    (
        r"sharding\.params",
        each(entry(pattern, each(axes))),
        "a tuple of (regex of a leaf's path, axes of each dimension), the axes a tuple of None, "
        "'tensor' or ('data', 'fsdp') each, such as (('.*mlp/fc1/kernel', (None, 'tensor')),)",
    ),
    (
        r"sharding\.activations",
        values(axes),
        "a dict of axes by dimension, such as {'batch': ('data', 'fsdp'), 'heads': 'tensor'}",
    ),
    (r".*\.captions|task\.descriptions", each(word), "a tuple of texts, such as ('caption',)"),
    ("(compare|repeats)", ROWS, ROWS_WANTED),
    ("table", COLUMNS, f"a tuple {COLUMNS_WANTED}"),
    ("more_tables", values(COLUMNS), f"a dict, by title, of tuples {COLUMNS_WANTED}"),
)
# Keys of each section that every command reads, in a config that has all of these sections.
NEEDED = {
    "model": ("checkpoint", "size", "methods", "frames", "context", "dtype"),
    "optimizer": ("name", "lr", "accumulate", "schedule"),
    "task": ("name",),
    "data": ("workers", "decode_timeout", "train"),
    "train": ("steps", "log_every", "checkpoint_every", "eval_every", "keep_last", "watchdog"),
    "sharding": ("params", "min_elements", "activations"),
}


def wrong_form(config: Mapping[str, Any]) -> str:
    """A sentence on the first value of a config that has the wrong form; '' if none has."""
    whole = all(name in config for name in NEEDED)
    for key, value in _nodes(config):
        if wanted := misfit(key, value):
            return f"config.{key}={_shown(value)}: must be {wanted}"
        lacking = [name for name in NEEDED.get(key, ()) if name not in value]
        if whole and lacking:
            return f"config.{key}={_shown(value)}: lacks {', '.join(lacking)}"
    return ""


def misfit(key: str, value: Any) -> str:
    """What the value of a key must be, if it is wrong; else ''."""
    return next((wanted for check, wanted in _forms_of(key) if not check(value)), "")


@functools.lru_cache(maxsize=4096)
def _forms_of(key: str) -> list[tuple[Callable[[Any], bool], str]]:
    return [(check, wanted) for name, check, wanted in FORMS if re.fullmatch(name, key)]


def _nodes(value: Mapping[str, Any], key: str = "") -> Iterator[tuple[str, Any]]:
    """Yields dotted keys and their values, a section before what is in it."""
    for name, inner in value.items():
        yield (path := f"{key}.{name}" if key else str(name)), inner
        if hasattr(inner, "items"):
            yield from _nodes(inner, path)


def _shown(value: Any) -> str:
    """The value on one line, unlike the repr of a ConfigDict."""
    return shown(value.to_dict() if hasattr(value, "to_dict") else value)
