"""Tensors that a checkpoint holds under two names, because two of its modules share them."""

import re
from collections.abc import Mapping

import numpy as np

from vlt.convert.errors import ConversionError
from vlt.convert.files.arrays import Tensors
from vlt.convert.tables.family import Family


def untie(family: Family, tensors: Tensors, path: object) -> tuple[Tensors, dict[str, str]]:
    """The tensors without the second names, and {second name: first} of those that had both.

    Raises ConversionError: the tensors under two such names differ.
    """
    tensors = dict(tensors)
    published = {family.canonical(name): name for name in tensors}
    ties = family.ties(published)
    aliases: dict[str, str] = {}
    for second, name in published.items():
        first = ties.get(second) or renamed(family.aliases, second)
        if first is None or re.fullmatch(family.left_out, second):
            continue
        tensor = tensors.pop(name)
        kept = tensors.setdefault(published.get(first, first), tensor)
        if not np.array_equal(kept, tensor, equal_nan=True):
            raise ConversionError(f"{path}: {name} is not the same as {first}, to which it is tied")
        if first in published:
            aliases[name] = published[first]
    return tensors, aliases


def renamed(names: Mapping[str, str], name: str) -> str | None:
    """The name as rewritten by the first {regex: replacement} that matches all of it, or None."""
    found = ((re.fullmatch(regex, name), other) for regex, other in names.items())
    return next((match.expand(other) for match, other in found if match), None)


def tie(tensors: Tensors, aliases: Mapping[str, str]) -> Tensors:
    """The tensors with their second names added; `aliases` is as `untie` returns it."""
    return tensors | {
        second: tensors[first] for second, first in aliases.items() if first in tensors
    }
