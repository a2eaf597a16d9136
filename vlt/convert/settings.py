"""`--set key=value`: what the tensors of a checkpoint can't tell."""

import math
from collections.abc import Callable, Iterable
from typing import Any

from vlt.adapters.vita_clip import POSITIONS
from vlt.convert.errors import ConversionError
from vlt.convert.preprocessing import FILTERS
from vlt.models.spec_reading import CLASS_PLACES, VIDEO_TOKENS
from vlt.pytrees.fields import near

_MOST = 10_000  # pixels, frames, tokens, heads


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("must be a finite number")
    return number


def _fraction(text: str) -> float:
    if not 0 <= _number(text) < 1:
        raise ValueError("must be >= 0 and < 1")
    return float(text)


def _count(text: str) -> int:
    number = int(text)
    if not 0 <= number <= _MOST:
        raise ValueError(f"must be a whole number from 0 to {_MOST}")
    return number


def _numbers(text: str) -> list[float]:
    numbers = [_number(part) for part in text.split(",")]
    if len(numbers) != 3:
        raise ValueError("must be three numbers, one for each colour channel")
    return numbers


def _deviations(text: str) -> list[float]:
    numbers = _numbers(text)
    if min(numbers) <= 0:
        raise ValueError("must be > 0, since pixels are divided by it")
    return numbers


def _one_of(*known: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text not in known:
            raise ValueError(f"choose from {', '.join(known)}")
        return text

    return check


def _switch(text: str) -> bool:
    return {"true": True, "false": False}[_one_of("true", "false")(text)]


_filter = _one_of(*FILTERS.values())
_new_rows = _one_of("mean", "image")
_connector = _one_of("linear", "mlp")
_tokens = _one_of(*VIDEO_TOKENS)
_cls = _one_of(*CLASS_PLACES)
_position = _one_of(*POSITIONS)
_gates = _one_of("vector", "scalar", "none")


def _joined(text: str) -> tuple[int, ...]:
    return tuple(_count(part) for part in text.split(","))


def _scale(text: str) -> float:
    scale = float(text)
    if not 0 < scale <= 1e4:
        raise ValueError("must be > 0 and at most 10000")
    return scale


def _published_or_layers(text: str) -> str | tuple[int, ...]:
    return text if text == "published" else _joined(text)


# vlt.command_line.convert documents them.
KEYS: dict[str, Callable[[str], Any]] = {
    "activation": str,
    "visual.activation": str,
    "text.activation": str,
    "visual.heads": _count,
    "visual.image_size": _count,
    "visual.temporal_frames": _count,
    "text.heads": _count,
    "text.context": _count,
    "visual.norm_eps": _fraction,
    "text.norm_eps": _fraction,
    "text.dropout": _fraction,
    "logit_scale": _scale,
    "preprocessing.mean": _numbers,
    "preprocessing.std": _deviations,
    "preprocessing.resize": _filter,
    "tempme.r": _count,
    "tempme.keep_cross": _count,
    "tempme.keep_intra": _count,
    "tempme.join": _joined,
    "token_mixing.layers": _published_or_layers,
    "vita_clip.position": _position,
    "plevu.prefix": _count,
    "plevu.postfix": _count,
    "plevu.heads": _count,
    "actionclip.published": _switch,
    "text.new_rows": _new_rows,
    "qformer.heads": _count,
    "chat.connector": _connector,
    "chat.tokens": _tokens,
    "chat.cls": _cls,
    "btadapter.gates": _gates,
    "btadapter.spare": _count,
    "kind": str,
    "masked_words": _switch,
    "base": str,
}


def parse_settings(pairs: Iterable[str]) -> dict[str, Any]:
    """['key=value', ...] -> {key: value}. `activation` sets both towers'.

    Raises ConversionError: an unknown key (the nearest is suggested), a key given twice, or a value
    that can't be read.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise ConversionError(f"--set {pair}: must be KEY=VALUE")
        if key not in KEYS:
            raise ConversionError(f"--set {pair}: unknown key {key!r}{near(key, KEYS)}")
        if key in settings:
            raise ConversionError(f"--set {key} is given twice")
        try:
            settings[key] = KEYS[key](text)
        except ValueError as error:
            raise ConversionError(f"--set {pair}: {error}") from error
    both = settings.pop("activation", None)
    towers = {f"{tower}.activation": both for tower in ("visual", "text") if both}
    return towers | settings
