"""Messages between a decoder process and its reader: JSON, and the bytes of an array.

A message is an 8-byte length, a JSON object of that many bytes and, if the object has a `shape`,
the bytes of a uint8 array. A decoder reads untrusted files, so its messages are checked: an error
is one of a closed list, rebuilt from its text; sizes are bounded; nothing is executed.
"""

import dataclasses
import json
import math
import os
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vlt.data.video import errors

LENGTH = struct.Struct("<Q")
READY: dict[str, Any] = {"ready": True}
MOST_TEXT = 1 << 20  # bytes of JSON
MOST_BYTES = 4 << 30  # of an array
_MOST_AXES = 8
_LONGEST_REASON = 50_000  # characters; six bytes each at most

_VIDEO_ERRORS = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.VideoError)
}
# What can be wrong with a request, whatever the file.
REQUEST_ERRORS = (ValueError, TypeError, ImportError, RuntimeError)
_OTHER_ERRORS: dict[str, Callable[[str], Exception]] = {
    kind.__name__: kind for kind in REQUEST_ERRORS
}


class BadAnswer(Exception):
    """What was received is not a valid message; says why."""


def pack(message: Mapping[str, Any]) -> bytes:
    """The bytes of a message, without those of an array."""
    text = json.dumps(message, default=_plain).encode()
    return LENGTH.pack(len(text)) + text


def pack_request(request: Any, limit: float) -> bytes:
    """The bytes of a request (a dataclass) and the seconds that it may take."""
    return pack({"request": request, "limit": limit})


def pack_answer(answer: np.ndarray | Exception) -> bytes:
    """The head of an answer: an error, which is a VideoError or one of `REQUEST_ERRORS`, or the
    shape of an array whose bytes follow."""
    if isinstance(answer, np.ndarray):
        return pack({"shape": answer.shape})
    name, reason = type(answer).__name__, str(answer)
    if isinstance(answer, errors.VideoError) and name in _VIDEO_ERRORS:
        reason = answer.reason[:_LONGEST_REASON]
        return pack({"error": name, "path": answer.path, "reason": reason})
    return pack({"error": name, "reason": reason[-_LONGEST_REASON:]})


def unpack(text: bytes) -> dict[str, Any]:
    """The JSON object of a message. Raises: BadAnswer."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadAnswer(f"not JSON: {error}") from None
    if not isinstance(message, dict):
        raise BadAnswer("not a JSON object")
    return message


def shape_or_error(message: Mapping[str, Any]) -> tuple[int, ...] | Exception:
    """The shape or the error in the head of an answer. Raises: BadAnswer."""
    match message:
        case {"shape": [*shape], **rest} if not rest and len(shape) <= _MOST_AXES:
            if all(type(n) is int and n >= 0 for n in shape) and math.prod(shape) <= MOST_BYTES:
                return tuple(shape)
        case {"error": str(name), "path": str(path), "reason": str(reason), **rest} if not rest:
            if name in _VIDEO_ERRORS:
                return _VIDEO_ERRORS[name](path, reason)
        case {"error": str(name), "reason": str(reason), **rest} if not rest:
            if name in _OTHER_ERRORS:
                return _OTHER_ERRORS[name](reason)
    raise BadAnswer("neither an array within bounds nor a known error")


def _plain(value: Any) -> Any:
    """Converts a value that JSON cannot express to one that it can."""
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if hasattr(value, "items"):  # a mapping, or a ConfigDict, which is not one by type
        return dict(value.items())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"a request cannot hold {value!r}")
