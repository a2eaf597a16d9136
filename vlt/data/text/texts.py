"""Checks texts as people and their tools write them: single ones, lists, names that look alike.

These are captions, labels, questions, answers and names of classes, wherever they come from.
"""

import ast
import json
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

SHOWN = 80  # characters of a value in a message

_ZERO_WIDTH = "\u200b\u200c\u200d\u2060\ufeff"
_AROUND = _ZERO_WIDTH + "".join(filter(str.isspace, map(chr, range(0x3001))))
# What a terminal would act on, or show reversed; and what no stream can encode.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_MISSING = frozenset(("nan", "NaN", "NAN", "NaT", "<NA>", "None", "null", "NULL"))
_WITH_POINT = re.compile(r"[+-]?(\d+\.\d*|\.\d+)(e[+-]?\d+)?|[+-]?\d+e[+-]?\d+", re.IGNORECASE)
_QUOTED = r"""(?:'(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+")"""
# A list or tuple of texts, as Python and JSON write it.
_WRITTEN_LIST = re.compile(
    rf"\[\s*+{_QUOTED}(?:\s*+,\s*+{_QUOTED})*+\s*+,?\s*+\]"
    rf"|\(\s*+{_QUOTED}(?:(?:\s*+,\s*+{_QUOTED})++\s*+,?|\s*+,)\s*+\)",
    re.DOTALL,
)
_OTHER_VALUES = re.compile(
    # Lists that are cut off or mixed with other values; nested lists, and sets; dictionaries; empty
    # lists and lists of numbers; numpy's arrays and bytes.
    rf"[\[({{][\[(\s]*+{_QUOTED}\s*+(?:,\s*+(?:['\"\[]|None\b|nan\b|null\b|\Z)|['\"]|\Z)"
    rf"|[\[{{][\[(\s]*+{_QUOTED}[\s,\])}}]*[\]}}]\Z"
    rf"|{{\s*+{_QUOTED}\s*+:"
    rf"|\[\s*+\]\Z|\[\s*+[-+\d.][-+\d.,eE\s]*+\]\Z"
    rf"|(?:np\.)?array\(\[|b{_QUOTED}\Z",
    re.DOTALL,
)


def trimmed(text: str) -> str:
    """The text without surrounding white space and zero-width characters."""
    return text.strip(_AROUND)


def wrong_characters(text: str) -> str:
    """Describes an invalid character of a text, a NUL or half of a surrogate pair; '' if none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half, place = ord(text[error.start]), error.start + 1
        return f"is not UTF-8 text: character {place} is \\u{half:04x}, half of a surrogate pair"
    if "\0" in text:
        return f"is not text: character {text.index(chr(0)) + 1} is a NUL"
    return ""


def printable(text: str) -> str:
    r"""The text for a terminal or inside JSON: control characters and lone surrogates as \uXXXX."""
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def shown(value: Any) -> str:
    """Type and value, for a message."""
    return "null" if value is None else f"{type(value).__name__}: {value!r:.{SHOWN}}"


def checked_text(value: Any) -> str:
    """The text, trimmed.

    Raises:
        ValueError: it is empty, not text, or what tools write for a missing value or a list.
    """
    if not isinstance(value, str) or not trimmed(value):
        raise ValueError(f"must be text and not empty, got {shown(value)}")
    if wrong := wrong_characters(value):
        raise ValueError(wrong)
    text = trimmed(value)
    if text in _MISSING:
        raise ValueError(f"is {text!r}, which tools write where a value is missing")
    if _OTHER_VALUES.match(text) or _WRITTEN_LIST.fullmatch(text):
        value = f"{text!r:.{SHOWN}}"
        raise ValueError(f"must be a text, is a list or another value written out: {value}")
    return text


def checked_texts(value: Any) -> tuple[str, ...]:
    """The trimmed texts of one text, of a list, or of a list written out by Python or as JSON.

    Raises:
        ValueError: there are none, it is something else, or it looks like a list but cannot be read
            as one.
    """
    written = _read_list(trimmed(value)) if isinstance(value, str) else []
    listed = written or ([value] if isinstance(value, str) else value)
    good = isinstance(listed, (list, tuple)) and len(listed) > 0
    if not good or not all(isinstance(each, str) and trimmed(each) for each in listed):
        raise ValueError(f"must be text or a list of texts and not empty, got {shown(value)}")
    return tuple(map(checked_text, listed))


def _read_list(text: str) -> list[str]:
    """The texts of a list that is written out; [] if the text is something else."""
    if not _WRITTEN_LIST.fullmatch(text):
        return []
    for read in (json.loads, ast.literal_eval):
        try:
            return list(read(text))
        except (ValueError, SyntaxError):
            continue
    return []


def checked_label(value: Any) -> str:
    """The name of a class, trimmed; for a whole number, its digits.

    Raises:
        ValueError: as `checked_text`; it is a number with a point, or has a control character.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    with_point = isinstance(value, float) or (
        isinstance(value, str) and _WITH_POINT.fullmatch(trimmed(value))
    )
    if with_point:
        raise ValueError(
            f"must be text or a whole number, got {value!r:.{SHOWN}}: pandas writes whole numbers "
            "with a point where some are missing; write 1 for 1.0, or a name"
        )
    if not isinstance(value, str):
        raise ValueError(f"must be text or a whole number and not empty, got {shown(value)}")
    text = checked_text(value)
    if _UNPRINTABLE.search(text):
        raise ValueError(f"must be one line without control characters, got {text!r:.{SHOWN}}")
    return text


def look(name: str) -> str:
    """A key that is equal for names that differ only in case, white space, zero-width characters or
    the way in which Unicode writes a letter."""
    plain = unicodedata.normalize("NFKC", name).translate(dict.fromkeys(map(ord, _ZERO_WIDTH)))
    return "".join(unicodedata.normalize("NFKC", plain.casefold()).split())


def look_alikes(names: Iterable[str]) -> tuple[str, str] | None:
    """The first two different names that `look` the same, or None."""
    first: dict[str, str] = {}
    for name in names:
        if (earlier := first.setdefault(look(name), name)) != name:
            return earlier, name
    return None
