"""What is wrong with a config, and the names that may have been meant."""

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A config file, variant, key or value that does not exist or does not fit."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    near = near_names(name, known)
    return f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""


def near_names(name: str, known: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(name, sorted(k for k in known if k), n=3, cutoff=0.6)
