"""Weights that were published as differences from LLaMA's, and checks that a sum is right.

Vicuna v0 and v1.1 (FastChat), LLaVA v0 and lightning v1-1: base + delta, in their own precision.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from vlt.convert.errors import ConversionError
from vlt.convert.tables.lazy import Lazy, Leaves

VOCABULARY = ("text/token_embedding/embedding", "text/head/kernel")
_ROWS = dict(zip(VOCABULARY, (0, 1), strict=True))  # the axis of words
_PROJECTION = r"connector/(projection|fc[12])/(kernel|bias)"
_NORMS = r"text/(blocks_\d+/norm[12]|final_norm)/scale"
_LEAST_NORM = 0.02  # least mean of a model's norm scales; LLaMA's is about 0.4, a delta's about 0
_LEAST_POSITIVE = 0.9  # least share of positive scales
_MOST_OVERLAP = 0.5
_COMPARED = 4  # projections of the first blocks that are compared to detect a merged base


def add_delta(base: Leaves, delta: Leaves, base_name: str, delta_name: str) -> tuple[dict, str]:
    """The model's leaves by path, and which kind of delta it was.

    Raises ConversionError: they do not fit, or their values show that the delta is not one, or that
    the base is another model or already merged.
    """
    base = {path: leaf for path, leaf in base.items() if path.startswith("text/")}
    names = f"{base_name} + {delta_name}"
    kind = _kind(base, delta, names)
    _check_norms(base, f"{base_name}: as the base of a delta")
    if norms_are_small(delta):
        _check_unmerged(base, delta, names)
    else:
        raise ConversionError(
            f"{delta_name}: {norms_text(delta)}, as of a whole model, not of a delta: give it as "
            "--llm, without --delta"
        )
    whole = {
        path: _sum(base[path], leaf, _ROWS.get(path)) if path in base else leaf
        for path, leaf in delta.items()
    }
    _check_norms(whole, f"{names}: the sum")
    return whole, kind


def _kind(base: Leaves, delta: Leaves, names: str) -> str:
    extra = [path for path in delta if path not in base and not re.fullmatch(_PROJECTION, path)]
    absent = [path for path in base if path not in delta]
    if extra or absent:
        lines = [f"the base has no {path}" for path in extra]
        lines += [f"the delta has no {path}" for path in absent]
        raise ConversionError("\n  ".join([f"{names}: do not fit:", *lines[:20]]))
    more = {path: _more_rows(path, base[path], delta[path], names) for path in base}
    if len({more[path] for path in VOCABULARY}) > 1:
        raise ConversionError(f"{names}: embeddings and head have other numbers of words")
    rows, base_rows = (each[VOCABULARY[0]].shape[0] for each in (delta, base))
    if any(path not in base for path in delta):
        return f"LLaVA, {rows} rows over the base's {base_rows}, with its projector"
    known = {0: "Vicuna v1.1", 1: "Vicuna v0, with [PAD]"}
    added = more[VOCABULARY[0]]
    if added not in known:
        raise ConversionError(
            f"{names}: {rows} rows over the base's {base_rows}; a delta of Vicuna v1.1 has as "
            "many, of v0 one more, of LLaVA three or four more and a projector"
        )
    return f"{known[added]}: {rows} rows over the base's {base_rows}"


def _more_rows(path: str, base: Lazy, delta: Lazy, names: str) -> int:
    """How many words more the delta has than the base; 0 for leaves of the same shape."""
    axis = _ROWS.get(path)
    if base.shape == delta.shape:
        return 0
    rest = [tuple(n for i, n in enumerate(each.shape) if i != axis) for each in (base, delta)]
    if axis is None or rest[0] != rest[1]:
        raise ConversionError(
            f"{names}: {path} is {list(base.shape)} in the base, {list(delta.shape)} in the delta"
        )
    more = delta.shape[axis] - base.shape[axis]
    if more < 0:
        raise ConversionError(
            f"{names}: the base has {base.shape[axis]} words, the delta {delta.shape[axis]}: the "
            "base is not LLaMA (32000) but a model with added words: already merged?"
        )
    return more


def _sum(base: Lazy, delta: Lazy, axis: int | None) -> Lazy:
    """The sum, in the delta's shape and precision; words the base lacks are the delta's own."""

    def read() -> np.ndarray:
        first, second = base.values(), delta.values()
        if first.dtype != second.dtype:
            first = first.astype(np.float32)
        if axis is None or first.shape == second.shape:
            return (first + second).astype(second.dtype, copy=False)
        known = (*(slice(None),) * axis, slice(first.shape[axis]))
        second[known] = first + second[known]
        return second

    return Lazy(delta.shape, delta.dtype, read, f"{base.origin} + {delta.origin}")


def _check_unmerged(base: Leaves, delta: Leaves, names: str) -> None:
    """Refuses a base that the delta was already added to: it overlaps with the delta by about 1."""
    paths = [path for path in base if re.fullmatch(r"text/blocks_\d+/attention/\w+/kernel", path)]
    product = square = 0.0
    for path in paths[:_COMPARED]:
        first, second = (each[path].values().astype(np.float32) for each in (base, delta))
        product += float((first * second).sum(dtype=np.float64))
        square += float((second * second).sum(dtype=np.float64))
    overlap = product / square if square else 0.0
    if overlap > _MOST_OVERLAP:
        raise ConversionError(
            f"{names}: the base has the delta in it {overlap:.2f} times (0 expected): it is merged "
            "already; LLaMA itself is the base"
        )


def check_merged(leaves: Leaves, name: str) -> None:
    """Raises ConversionError where a language model is a delta that was not added to a base."""
    if norms_are_small(leaves):
        raise ConversionError(
            f"{name}: {norms_text(leaves)}: a delta, not a model. Give its base as --llm and this "
            "as --delta"
        )


def _check_norms(leaves: Leaves, name: str) -> None:
    if norms_are_small(leaves):
        raise ConversionError(f"{name}: {norms_text(leaves)}: no language model")


def norms_are_small(leaves: Leaves) -> bool:
    """Whether RMSNorm scales are about 0 on average or often not positive, as in a delta."""
    mean, positive = _norms(leaves)
    return mean < _LEAST_NORM or positive < _LEAST_POSITIVE


def norms_text(leaves: Leaves) -> str:
    """The evidence, for error messages."""
    mean, positive = _norms(leaves)
    return f"its RMSNorm weights have a mean of {mean:.2g}, and {positive:.0%} of them are positive"


def _norms(leaves: Leaves) -> tuple[float, float]:
    values = [*_values(leaves)] or [np.ones(1, np.float32)]
    flat = np.concatenate(values)
    return float(flat.mean()), float((flat > 0).mean())


def _values(leaves: Leaves) -> Iterator[np.ndarray]:
    for path, leaf in leaves.items():
        if re.fullmatch(_NORMS, path):
            yield leaf.values().astype(np.float32).ravel()


def check_base_config(config: Mapping[str, Any] | None, name: str) -> None:
    """Raises ConversionError where a base's config.json or params.json is not LLaMA-1's."""
    eps = (config or {}).get("rms_norm_eps", (config or {}).get("norm_eps"))
    if isinstance(eps, float) and not eps < 5e-6:
        raise ConversionError(
            f"{name}: its norms' epsilon is {eps:g}, LLaMA-1's is 1e-6: the deltas known here are "
            "of LLaMA-1, this is LLaMA-2 or what came of it"
        )
