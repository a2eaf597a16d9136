"""`--set key=value`: what the tensors of a checkpoint can't tell."""

import difflib
from collections.abc import Callable, Iterable
from typing import Any

from vlt.convert.errors import ConversionError


def _numbers(text: str) -> list[float]:
    numbers = [float(part) for part in text.split(",")]
    if len(numbers) != 3:
        raise ValueError("three numbers, one a colour channel")
    return numbers


def _joined(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _published_or_layers(text: str) -> str | tuple[int, ...]:
    return text if text == "published" else _joined(text)


_KEYS: dict[str, Callable[[str], Any]] = {
    "activation": str,
    "visual.activation": str,
    "text.activation": str,
    "visual.heads": int,
    "visual.image_size": int,
    "visual.temporal_frames": int,
    "text.heads": int,
    "text.context": int,
    "visual.norm_eps": float,
    "text.norm_eps": float,
    "text.dropout": float,
    "preprocessing.mean": _numbers,
    "preprocessing.std": _numbers,
    "preprocessing.resize": str,
    "tempme.r": int,
    "tempme.keep_cross": int,
    "tempme.keep_intra": int,
    "tempme.join": _joined,
    "token_mixing.layers": _published_or_layers,
    "kind": str,
    "base": str,
}


def parse_settings(pairs: Iterable[str]) -> dict[str, Any]:
    """['key=value', ...] -> {key: value}. `activation` sets both towers'.

    Raises ConversionError: unknown key, with the nearest one, or a value that can't be read.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or key not in _KEYS:
            close = difflib.get_close_matches(key, _KEYS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"keys are {', '.join(_KEYS)}"
            raise ConversionError(f"--set {pair}: key=value with a known key; {hint}")
        try:
            settings[key] = _KEYS[key](text)
        except ValueError as error:
            raise ConversionError(f"--set {pair}: {error}") from error
    both = settings.pop("activation", None)
    towers = {f"{tower}.activation": both for tower in ("visual", "text") if both}
    return towers | settings
