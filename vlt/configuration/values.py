"""Values of configs: replacing, comparing and writing them; making rows and repeats of them."""

import ast
import copy
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from vlt.configuration.errors import ConfigError
from vlt.pytrees.fields import did_you_mean

ABSENT = "(absent)"
# Keys whose values name something with options in a section of its own.
NAMING = ("model.methods", "optimizer.name", "optimizer.schedule", "optimizer.schedule.name")


def apply_overrides(config: ConfigDict, overrides: Mapping[str, Any]) -> ConfigDict:
    """Returns a copy with some values replaced; fields that refer to them follow.

    Args:
      overrides: {dotted key: value}. A value keeps the type of the one it replaces (an int may
        become a float, a list a tuple); a dict replaces a whole branch. An option that the config
        does not hold is added if it belongs to a method that `model.methods` names, to the
        schedule, or to the optimizer by name; whether they have it is checked when they are made.

    Raises:
      ConfigError: a key does not exist (lists the nearest that do) or a value is of another type.
    """
    changed = _copy(config, {}).unlock()
    known = set(keys_of(config))
    for key in sorted(overrides, key=lambda key: key not in known):  # names before their options
        *branches, last = key.split(".")
        if key not in known:
            _add_section(changed, key, known)
        branch: Any = changed
        for part in branches:
            branch = branch[part]
        if last in branch:
            _replace(branch, last, overrides[key], key)
        else:
            branch[last] = overrides[key]
    return changed


def _copy(config: ConfigDict, memo: dict[int, Any]) -> ConfigDict:
    """As `copy.deepcopy`, which looks up a method that sections lack; a ConfigDict then searches
    its keys for similar names."""
    copied = memo[id(config)] = ConfigDict(None, config.is_type_safe, config.convert_dict)
    for name, value in config.items(preserve_field_references=True):
        is_section = isinstance(value, ConfigDict) and id(value) not in memo
        copied[name] = _copy(value, memo) if is_section else copy.deepcopy(value, memo)
    return copied


def _add_section(config: ConfigDict, key: str, known: Iterable[str]) -> None:
    """Makes the section of an option that a config does not hold.

    Raises:
      ConfigError: it is not an option of anything that the config or one of its rows names.
    """
    names = {"model": _methods(config), "optimizer": _chosen(config)}
    part, _, rest = key.partition(".")
    section, _, option = rest.partition(".")
    if part not in config or section not in names.get(part, ()) or not option.isidentifier():
        named = ", ".join(sorted(filter(None, names.get(part, ()))))
        hint = f"; what is named, and may have options: {named}" if option and named else ""
        raise ConfigError(f"{unknown_key(key, known)}{hint}")
    if section not in config[part]:
        config[part][section] = {}


def _methods(config: ConfigDict) -> set[str]:
    """Names of the sections of all methods of the config and its rows."""
    rows = (dict(overrides).get("model.methods", ()) for _, overrides in config.get("compare", ()))
    listed = (config.get("model", {}).get("methods", ()), *rows)
    return {str(name).rpartition(".")[2] for methods in listed for name in methods}


def _chosen(config: ConfigDict) -> set[str]:
    rows = (dict(overrides).get("optimizer.name", "") for _, overrides in config.get("compare", ()))
    return {"schedule", config.get("optimizer", {}).get("name", ""), *rows}


def with_options(config: ConfigDict, typed: Mapping[str, str]) -> ConfigDict:
    """The config with the keys of `typed` that it does not hold, and what names their sections.

    typed: {dotted key: text after '=' on a command line}.

    Raises:
      ConfigError: a key is not an option either.
    """
    known = set(keys_of(config))
    absent = {key: literal(text) for key, text in typed.items() if key not in known}
    if not absent:
        return config
    naming = {key: literal(typed[key]) for key in NAMING if key in typed and key in known}
    if isinstance(naming.get("model.methods"), str):
        naming["model.methods"] = (naming["model.methods"],)
    return apply_overrides(config, naming | absent)


def literal(text: str) -> Any:
    """The value of a Python literal, or else the text itself."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def sweep_rows(settings: Sequence[str]) -> tuple[tuple[str, dict[str, Any]], ...]:
    """Rows of a comparison from settings 'key=a,b': the product of their values.

    Raises:
      ConfigError: a setting lacks its key or a value, or a key is given twice.
    """
    values: dict[str, list[Any]] = {}
    for setting in settings:
        key, _, text = setting.partition("=")
        key = key.removeprefix("config.")
        found = [literal(part.strip()) for part in _split(text)]
        if not key or key in values or "" in found:
            raise ConfigError(f"--sweep must be KEY=A,B, each key once, got {setting}")
        values[key] = found
    short = [key.rpartition(".")[2] for key in values]
    names = [s if short.count(s) == 1 else key for key, s in zip(values, short, strict=True)]
    return tuple(
        (
            ", ".join(f"{name}={value}" for name, value in zip(names, chosen, strict=True)),
            dict(zip(values, chosen, strict=True)),
        )
        for chosen in itertools.product(*values.values())
    )


def _split(text: str) -> list[str]:
    """Splits a text at the commas outside brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _replace(branch: ConfigDict, last: str, value: Any, key: str) -> None:
    old = branch[last]
    try:
        if isinstance(value, bool) and not isinstance(old, bool) and old is not None:
            raise TypeError("a truth value is not a number")
        branch[last] = value
    except TypeError:
        old = old.to_dict() if isinstance(old, ConfigDict) else old  # in one line
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
    """(title, config) of each row of the config's comparison; of itself, as '', if it has none."""
    return _expanded(config, "compare")


def repeats_of(config: ConfigDict) -> list[tuple[str, ConfigDict]]:
    """As `rows_of`, for the runs whose means a row shows."""
    return _expanded(config, "repeats")


def _expanded(config: ConfigDict, key: str) -> list[tuple[str, ConfigDict]]:
    entries: Sequence[Any] = config.get(key) or ()
    rows = [(title, apply_overrides(config, {key: ()} | dict(more))) for title, more in entries]
    return rows or [("", config)]


def flatten(config: ConfigDict) -> dict[str, str]:
    """{dotted key: literal value}, sorted; a tuple that holds containers gets a key per element."""
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
    """Converts a value to nested dicts with sorted keys, tuples and JSON's scalars."""
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
    """One 'dotted.key = literal' per line, sorted: the same text for equal configs."""
    return "".join(f"{key} = {value}\n" for key, value in flatten(config).items())


def differing_keys(a: ConfigDict, b: ConfigDict) -> dict[str, tuple[str, str]]:
    """{dotted key: (literal in a, literal in b)}; `ABSENT` stands for a key that one lacks."""
    first, second = flatten(a), flatten(b)
    return {
        key: (first.get(key, ABSENT), second.get(key, ABSENT))
        for key in sorted(first.keys() | second.keys())
        if first.get(key) != second.get(key)
    }
