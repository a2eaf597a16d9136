"""Dataclasses from plain values: untrusted JSON, sections of configs, keyword arguments.

Every value is checked against the annotation of its field before an object is made, so that an
error is a sentence that names the field, and nothing is allocated for a wrong value.
"""

import dataclasses
import difflib
import math
import reprlib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

LARGEST = 2**31 - 1  # magnitude of a number
LONGEST = 4096  # elements of a list or characters of a text

T = TypeVar("T")
_words = reprlib.Repr()
_words.maxother = _words.maxstring = _words.maxlong = 60


def from_values(kind: type[T], values: Any, where: str, noun: str = "field") -> T:
    """The dataclass `kind` with these values for its fields; lists become tuples.

    Args:
        values: {field: value}; for a field that is a dataclass, another such mapping.
        where: what messages call the whole. noun: what they call a field.

    Raises:
        ValueError: a field is missing, unknown, of another type, or not a finite number.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} must be {{{noun}: value, ...}}, got {shown(values)}")
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise ValueError(f"{where} has no {noun} {shown(key)}{near(key, fields)}")
    for name, field in fields.items():
        absent = (field.default, field.default_factory) == (dataclasses.MISSING,) * 2
        if absent and name not in values:
            raise ValueError(f"{where} lacks {name!r}")
    hints = typing.get_type_hints(kind)
    return kind(**{k: _value(hints[k], v, f"{where}.{k}") for k, v in values.items()})


def did_you_mean(name: Any, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: up to three known names close to it."""
    close = near_names(name, known)
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""


def near_names(name: Any, known: Iterable[str]) -> list[str]:
    """Up to three known names close to this one, the closest first."""
    return difflib.get_close_matches(str(name)[:LONGEST], sorted(filter(None, known)), n=3)


def near(name: Any, known: Iterable[str]) -> str:
    """`did_you_mean`, or a list of all known names if none is close."""
    names = sorted(known)
    return did_you_mean(name, names) or f"; choose from {', '.join(names)}"


def shown(value: Any) -> str:
    """A short form of a value, however large or deep it is."""
    return _words.repr(value)


def _value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_values(typing.cast(type, hint), value, where)
    choices = typing.get_args(hint) if _is_union(hint) else (hint,)
    for choice in choices:
        if dataclasses.is_dataclass(choice) and isinstance(value, Mapping):
            return from_values(typing.cast(type, choice), value, where)
        found = _converted(choice, value)
        if found is not _UNFIT:
            return found
    needed = " or ".join(_named(choice) for choice in choices)
    raise ValueError(f"{where} must be {needed}, got {shown(value)}")


_UNFIT = object()


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _converted(hint: Any, value: Any) -> Any:
    """The value as the annotation has it, or _UNFIT if it does not fit."""
    if typing.get_origin(hint) is tuple:
        return _tuple(typing.get_args(hint), value)
    if typing.get_origin(hint) is dict:
        return dict(value) if isinstance(value, Mapping) else _UNFIT
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, typing.cast(type, hint)) else _UNFIT
    fits = {
        int: type(value) is int and abs(value) <= LARGEST,
        float: type(value) in (int, float) and abs(value) <= LARGEST and math.isfinite(value),
        bool: type(value) is bool,
        str: type(value) is str and len(value) <= LONGEST,
        type(None): value is None,
    }
    return value if fits.get(hint, True) else _UNFIT


def _tuple(hints: tuple[Any, ...], value: Any) -> Any:
    """A tuple of any length with one type of elements, or with a type for each; or _UNFIT."""
    if not isinstance(value, (list, tuple)) or len(value) > LONGEST:
        return _UNFIT
    each = hints[:1] * len(value) if hints[-1] is Ellipsis else hints
    if len(each) != len(value):
        return _UNFIT
    found = tuple(_converted(hint, element) for hint, element in zip(each, value, strict=True))
    return _UNFIT if any(element is _UNFIT for element in found) else found


def _named(hint: Any) -> str:
    if typing.get_origin(hint) is tuple:
        element, *rest = typing.get_args(hint)
        count = "" if rest[-1] is Ellipsis else f"{1 + len(rest)} "
        return f"a list of {count}{_PLURAL[element]}"
    if typing.get_origin(hint) is dict:
        return "{name: value, ...}"
    if dataclasses.is_dataclass(hint):
        return "{field: value, ...}"
    return _NAMES[hint]


_NAMES = {
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    str: "a text",
    type(None): "null",
}
_PLURAL = {int: "whole numbers", float: "finite numbers", str: "texts"}
