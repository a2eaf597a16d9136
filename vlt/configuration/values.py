"""Values of configs: replaced, compared, written down; rows and repeats made of them."""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from vlt.configuration.errors import ConfigError, did_you_mean

ABSENT = "(absent)"


def apply_overrides(config: ConfigDict, overrides: Mapping[str, Any]) -> ConfigDict:
    """Returns a copy with some values replaced; what refers to one of them follows it.

    Args:
      overrides: {dotted key: value}. A value keeps the type of the one it replaces (an int may
        become a float, a list a tuple); a dict replaces a whole branch.

    Raises:
      ConfigError: a key that does not exist (with the nearest that do) or a value of another type.
    """
    changed = copy.deepcopy(config).unlock()
    for key, value in overrides.items():
        *branches, last = key.split(".")
        branch: Any = changed
        for part in branches:
            branch = branch[part] if isinstance(branch, ConfigDict) and part in branch else None
        if not isinstance(branch, ConfigDict) or last not in branch:
            raise unknown_key(key, keys_of(config))
        _replace(branch, last, value, key)
    return changed


def _replace(branch: ConfigDict, last: str, value: Any, key: str) -> None:
    old = branch[last]
    try:
        if isinstance(value, bool) and not isinstance(old, bool) and old is not None:
            raise TypeError("a truth value is not a number")
        branch[last] = value
    except TypeError:
        raise ConfigError(
            f"config.{key}={value!r} is of type {type(value).__name__}; it must be of type "
            f"{type(old).__name__}, like {old!r}"
        ) from None


def unknown_key(key: str, known: Iterable[str]) -> ConfigError:
    return ConfigError(f"the config has no key {key!r}{did_you_mean(key, known)}")


def keys_of(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    for name, value in config.items():
        yield prefix + name
        if isinstance(value, ConfigDict):
            yield from keys_of(value, f"{prefix}{name}.")


def rows_of(config: ConfigDict) -> list[tuple[str, ConfigDict]]:
    """(title, config) of each row of the config's comparison; itself, as '', where it has none."""
    return _expanded(config, "compare")


def repeats_of(config: ConfigDict) -> list[tuple[str, ConfigDict]]:
    """As `rows_of`, of the runs whose means a row shows."""
    return _expanded(config, "repeats")


def _expanded(config: ConfigDict, key: str) -> list[tuple[str, ConfigDict]]:
    entries: Sequence[Any] = config.get(key) or (("", {}),)
    overrides = {key: ()} if key in config else {}
    return [(title, apply_overrides(config, overrides | dict(more))) for title, more in entries]


def flatten(config: ConfigDict) -> dict[str, str]:
    """{dotted key: literal value}, sorted; a tuple with containers in it is one key per element."""
    return dict(sorted(_literals("", plain(config))))


def _literals(key: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _literals(f"{key}.{name}" if key else name, inner)
    elif isinstance(value, tuple) and any(isinstance(inner, (dict, tuple)) for inner in value):
        for index, inner in enumerate(value):
            # Zeros before the index keep sorted keys in the tuple's order.
            name = f"{key}[{index:0{len(str(len(value) - 1))}d}]"
            yield name, repr(inner)
    else:
        yield key, repr(value)


def plain(value: Any, key: str = "config") -> Any:
    """Nested dicts with sorted keys, tuples and JSON's scalars."""
    if isinstance(value, ConfigDict):
        value = value.to_dict()
    if isinstance(value, Mapping):
        return {name: plain(value[name], f"{key}.{name}") for name in sorted(value)}
    if isinstance(value, (list, tuple)):
        return tuple(plain(inner, f"{key}[{index}]") for index, inner in enumerate(value))
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ConfigError(
        f"{key} is a {type(value).__name__}; a config holds numbers, strings, truth values, None, "
        "tuples and dicts"
    )


def resolved_text(config: ConfigDict) -> str:
    """One 'dotted.key = literal' a line, sorted: the same text for equal configs."""
    return "".join(f"{key} = {value}\n" for key, value in flatten(config).items())


def differing_keys(a: ConfigDict, b: ConfigDict) -> dict[str, tuple[str, str]]:
    """{dotted key: (literal in a, literal in b)}; `ABSENT` stands for a key that one lacks."""
    first, second = flatten(a), flatten(b)
    return {
        key: (first.get(key, ABSENT), second.get(key, ABSENT))
        for key in sorted(first.keys() | second.keys())
        if first.get(key) != second.get(key)
    }
