"""Finds the tensors in what a checkpoint file holds: beside an optimizer, in wrappers, nested."""

import collections
import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vlt.convert.errors import ConversionError
from vlt.convert.files.arrays import Tensors

# Entries under which training code saves a state dict, in the order of preference: averages last.
WRAPPERS = (
    *("state_dict", "model_state_dict", "model_state", "model", "module", "net", "network"),
    *("student", "params", "weights", "ema", "model_ema", "ema_model", "state_dict_ema"),
    *("ema_state_dict", "model_ema_state_dict", "params_ema", "teacher"),
)
# Entries that together make one model, and stay in its tensors' names: the two towers, and what
# follows them (ActionCLIP, MoTE).
SIBLINGS = ("model_state_dict", "fusion_model_state_dict")
# Modules that wrap another, and whose own names may stand anywhere in those of its tensors.
_INSIDE = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
_COUNTERS = ("n_averaged",)  # of torch.optim.swa_utils.AveragedModel, beside its module
_TORCHSCRIPT_STATE = ("training", "_is_full_backward_hook")
_DEEPEST = 100
_LONGEST = 1000  # characters of a tensor's name


@dataclasses.dataclass
class StateDict:
    """tensors: by published name. other: names of everything else. notes: what was chosen.
    entry: the entry of the file that held the tensors. taken_off: words that were removed from the
    names."""

    tensors: Tensors
    other: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    entry: str = ""
    taken_off: list[str] = dataclasses.field(default_factory=list)


def state_dict(path: Path, saved: Any, key: str | None = None) -> StateDict:
    """The tensors of a flat, wrapped or nested (TorchScript) dict.

    key: the entry to take, with dots for nested ones, or the words that names of a flat dict begin
    with. By default both `SIBLINGS` if both hold tensors, else the first of `WRAPPERS` that does,
    else the whole dict.

    Raises ConversionError: not a dict, no tensors, no such entry (those with tensors are listed),
    two values of one name, or a name of more than 1000 characters.
    """
    if not isinstance(saved, dict):
        raise ConversionError(f"{path}: holds a {type(saved).__name__}, not a dict of tensors")
    wrapper = next((name for name in WRAPPERS if _holds_tensors(saved.get(name))), None)
    if key is not None:
        chosen = _entry(path, saved, key)
    elif all(_holds_tensors(saved.get(name)) for name in SIBLINGS):
        chosen = _flat(path, {name: saved[name] for name in SIBLINGS})
        chosen.other = [*(_spelled(name) for name in saved if name not in SIBLINGS), *chosen.other]
        chosen.notes = [f"tensors: those of the entries {' and '.join(SIBLINGS)}"]
    elif wrapper is not None:
        chosen = _flat(path, saved[wrapper])
        chosen.other = [*(_spelled(name) for name in saved if name != wrapper), *chosen.other]
        chosen.entry, chosen.notes = wrapper, [f"tensors: those of the entry {wrapper}"]
        chosen.notes += _alternatives(saved, wrapper, max(chosen.tensors, key=len))
    else:
        chosen = _flat(path, saved)
    return _without_wrapping_modules(path, chosen)


def entries_with_tensors(tensors: Tensors, entry: str = "") -> str:
    """Values that `key` can take, as prefixes of names, with the number of tensors under each.

    entry: the entry of the file that held the tensors.
    """
    start = f"{entry}." if entry else ""
    counts: collections.Counter[str] = collections.Counter()
    for name in tensors:
        first, *rest = name.split(".")[:-1][:2] or [""]
        counts.update(filter(None, [first, *(f"{first}.{word}" for word in rest)]))
    return ", ".join(f"{start}{words} ({n})" for words, n in counts.most_common(12))


def _entry(path: Path, saved: dict, key: str) -> StateDict:
    flat = _flat(path, saved)
    tensors = {
        name.removeprefix(f"{key}."): tensor
        for name, tensor in flat.tensors.items()
        if name.startswith(f"{key}.")
    }
    if not tensors:
        raise ConversionError(
            f"{path}: --key {key}: no entry of this name holds tensors; those that do, with how "
            f"many: {entries_with_tensors(flat.tensors) or 'none'}"
        )
    return StateDict(tensors, notes=[f"tensors: those of the entry {key} (--key)"], entry=key)


def _alternatives(saved: dict, chosen: str, sample: str) -> list[str]:
    """Notes on other entries that hold a tensor of the name `sample`, such as averages."""
    return [
        f"not taken: the entry {_spelled(name)}, with tensors of the same names "
        f"(--key {_spelled(name)})"
        for name, value in saved.items()
        if name != chosen and any(_is_same(sample, other) for other in _tensor_names(value))
    ]


def _is_same(a: str, b: str) -> bool:
    """Whether the names are the same, apart from words in front of one."""
    return f".{a}".endswith(f".{b}") or f".{b}".endswith(f".{a}")


def _holds_tensors(tree: Any) -> bool:
    return next(_tensor_names(tree), None) is not None


def _tensor_names(tree: Any) -> Iterator[str]:
    leaves = _leaves(tree) if isinstance(tree, dict) else ()
    return (name for name, leaf in leaves if _is_tensor(leaf))


def _flat(path: Path, tree: dict) -> StateDict:
    """Flattens a nested dict to dotted names.

    Raises ConversionError: two values of one name, a tensor of too long a name, or no tensors.
    """
    result = StateDict({})
    seen: set[str] = set()
    for name, leaf in _leaves(tree):
        if name in result.tensors or (name in seen and _is_tensor(leaf)):
            raise ConversionError(f"{path}: holds two values of the name {name}")
        if len(name) > _LONGEST and _is_tensor(leaf):
            raise ConversionError(
                f"{path}: holds a tensor whose name has {len(name):,} characters, at most "
                f"{_LONGEST} are read: {name[:80]}..."
            )
        seen.add(name)
        if _is_tensor(leaf) and name not in _COUNTERS:
            result.tensors[name] = leaf
        elif name.rpartition(".")[2] not in _TORCHSCRIPT_STATE:
            result.other.append(name)
    if not result.tensors:
        keys = ", ".join(_spelled(key) for key in itertools.islice(tree, 8))
        raise ConversionError(f"{path}: holds no tensors; its keys are {keys or 'none'}")
    return result


def _leaves(tree: dict, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yields (dotted name, value) of all but dicts; vlt.convert.files.resolve bounds how many."""
    for key, value in tree.items():
        name = prefix + _spelled(key)
        if isinstance(value, dict) and depth < _DEEPEST:
            yield from _leaves(value, f"{name}.", depth + 1)
        else:
            yield name, value


def _spelled(key: Any) -> str:
    """A key as part of a name: text or an integer, else its type in brackets. Safe to print."""
    if type(key) is int and abs(key) < 2**63:
        return str(key)
    if not isinstance(key, str):
        return f"<{type(key).__name__}>"
    return key if key.isprintable() else key.encode("unicode_escape").decode("ascii")


def _is_tensor(value: Any) -> bool:
    """Whether it is an array of numbers; arrays of text, times or objects hold no weights."""
    return isinstance(value, np.ndarray) and value.dtype.kind not in "OSUMm"


def _without_wrapping_modules(path: Path, found: StateDict) -> StateDict:
    tensors: Tensors = {}
    words: set[str] = set()
    for name, tensor in found.tensors.items():
        parts = name.split(".")
        plain = ".".join(part for part in parts if part not in _INSIDE)
        words |= {part for part in parts if part in _INSIDE}
        if plain in tensors:
            raise ConversionError(f"{path}: holds two tensors of the name {plain}")
        tensors[plain] = tensor
    taken_off = [f"{word}." for word in sorted(words)]
    return dataclasses.replace(found, tensors=tensors, taken_off=taken_off)
