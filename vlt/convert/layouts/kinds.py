"""Tells which of a layout's kinds of model a checkpoint is, from the names of its tensors."""

import dataclasses
from collections.abc import Iterable

from vlt.convert.errors import ConversionError
from vlt.convert.files.reading import Checkpoint
from vlt.convert.tables.family import Family, Kind


def remade(family: Family, checkpoint: Checkpoint, asked: str | None) -> None:
    """Adds the part that the kind asked for may lack, made from the tensors that are present."""
    made = family.kinds[asked].made if asked is not None and asked in family.kinds else None
    if made is None:
        return
    part, make = made
    if not any(family.canonical(name).startswith(f"{part}.") for name in checkpoint.tensors):
        checkpoint.tensors = make(checkpoint.tensors)
        checkpoint.notes.append(f"{part}: made of the other tensors, as training starts it")


def choose_kind(family: Family, names: Iterable[str], asked: str | None, path: object) -> Family:
    """The layout of the kind of model that tensors of these names make up.

    asked: the kind that a setting or a config.json names. A checkpoint that has the parts of all
    kinds (BLIP's pre-training) is taken as that one.
    Raises ConversionError: parts of no kind, of another than asked for (missing ones are named), or
    of all kinds with none asked for.
    """
    if not family.kinds:
        if asked is not None:
            family.for_kind(asked)
        return family
    first = {family.canonical(name).partition(".")[0] for name in names}
    every = {part for kind in family.kinds.values() for part in kind.parts}
    held = first & every
    if held == every and asked is not None:
        return _one_of_all(family, asked)
    if held == every:
        raise ConversionError(
            f"{path}: holds the parts of every kind; --set kind={'|'.join(family.kinds)}"
        )
    told = next((name for name, kind in family.kinds.items() if held == set(kind.parts)), None)
    if told is not None and asked in (None, told):
        return family.for_kind(told)
    lines = [f"{path}: holds {', '.join(sorted(held)) or 'no part'} (kind {told or 'unknown'})"]
    for name in [asked] if asked is not None else family.kinds:
        family.for_kind(name)
        lines.append(f"  kind {name}: {_difference(held, family.kinds[name])}")
    raise ConversionError("\n".join(lines))


def _one_of_all(family: Family, asked: str) -> Family:
    """The layout of one kind, leaving out the tensors that only other kinds have."""
    chosen = family.for_kind(asked)
    own = {rule.source for rule in chosen.rules}
    others = {
        rule.pattern.pattern
        for kind in family.kinds.values()
        for rule in kind.rules
        if rule.source not in own
    }
    return dataclasses.replace(chosen, left_out="|".join([family.left_out, *sorted(others)]))


def _difference(held: set[str], kind: Kind) -> str:
    missing = [part for part in kind.parts if part not in held]
    spare = sorted(held - set(kind.parts))
    told = [f"missing {', '.join(missing)}"] if missing else []
    told += [f"unexpected {', '.join(spare)}"] if spare else []
    return "; ".join(told)
