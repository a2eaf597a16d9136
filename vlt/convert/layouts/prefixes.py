"""Tells the family from the names of tensors, even behind words that frameworks put in front."""

import re
from collections.abc import Iterator, Sequence

from vlt.convert.errors import ConversionError
from vlt.convert.files.reading import Checkpoint
from vlt.convert.files.state_dict import entries_with_tensors
from vlt.convert.layouts.families import family_of, get_family
from vlt.convert.tables.family import Family

_MOST = 8  # words that are taken off; nobody wraps a model more often


def told_family(checkpoint: Checkpoint, asked: str | None = None) -> Family:
    """The family named `asked`, or else the one that the checkpoint's names tell.

    Words that all names begin with, and that the family has no place for, are taken off the
    checkpoint's names and recorded in its `taken_off`: the fewest after which the names fit.

    Raises ConversionError: no known family, with these words or without them.
    """
    names = [*checkpoint.tensors]
    for prefix in _shared(names):
        family = _family(checkpoint, prefix, asked)
        if family and _fits(family, [name.removeprefix(prefix) for name in names]):
            checkpoint.take_off(prefix)
            return family
    if asked:
        return get_family(asked)
    try:
        return family_of([*names, *checkpoint.other], checkpoint.path)
    except ConversionError as error:
        entries = entries_with_tensors(checkpoint.tensors, checkpoint.entry)
        raise ConversionError(f"{error}; entries for --key: {entries or 'none'}") from error


def _shared(names: Sequence[str]) -> Iterator[str]:
    """Yields the prefixes that all names share, of no words, one word, ..., up to `_MOST`."""
    first, *_ = words = [name.split(".") for name in names]
    for count in range(min(_MOST + 1, *map(len, words))):
        if any(parts[:count] != first[:count] for parts in words):
            return
        yield "".join(f"{word}." for word in first[:count])


def _family(checkpoint: Checkpoint, prefix: str, asked: str | None) -> Family | None:
    if asked:
        return get_family(asked)
    names = [name.removeprefix(prefix) for name in (*checkpoint.tensors, *checkpoint.other)]
    try:
        return family_of(names, checkpoint.path)
    except ConversionError:
        return None


def _fits(family: Family, names: Sequence[str]) -> bool:
    """Whether most of the names have a place in the family's table."""
    kinds = [rule for kind in family.kinds.values() for rule in kind.rules]
    patterns = [rule.pattern for rule in (*family.rules, *kinds)]
    patterns += [re.compile(family.dropped), re.compile(family.left_out)]
    spelled = map(family.canonical, names)
    return 2 * sum(any(p.fullmatch(name) for p in patterns) for name in spelled) > len(names)
