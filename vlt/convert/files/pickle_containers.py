"""Plain containers that a pickle's calls make, within limits per pickle."""

from collections.abc import Callable
from typing import Any

from vlt.convert.errors import ConversionError
from vlt.convert.files.arrays import is_count
from vlt.convert.files.placeholders import Name, Opaque

_MOST_KEY = 4096
_MOST_KEY_PARTS = 8
_MOST_TUPLE_KEYS = 10_000


class Limits:
    """Limits of one pickle: on keys of dicts and sets, and on copies of what it holds."""

    def __init__(self) -> None:
        self.copies = 0
        self._copied = 0
        self._tuples = 0

    def key(self, value: Any) -> Any:
        """Returns `value` if it may be a key of a dict or a member of a set.

        Its hash must be cheap, and not chosen by the writer: Python salts the hashes of text, but
        integers from 2**60 on, tuples of numbers and nested tuples can be made to collide, and a
        long dict of them takes hours. So integers must be smaller, and tuples short, flat and few.

        Raises: ConversionError.
        """
        if type(value) is not tuple:
            return _flat_key(value)
        self._tuples += 1
        if self._tuples > _MOST_TUPLE_KEYS:
            raise ConversionError(f"the pickle has more than {_MOST_TUPLE_KEYS} tuples as keys")
        if len(value) > _MOST_KEY_PARTS:
            raise ConversionError(f"a tuple of more than {_MOST_KEY_PARTS} as a key")
        return tuple(map(_flat_key, value))

    def copy(self, value: Any) -> None:
        """Counts a copy of a container or text.

        Raises: ConversionError when all copies together have more than `copies` elements.
        """
        self._copied += len(value)
        if self._copied > self.copies:
            raise ConversionError("the pickle copies more than it holds")


def _flat_key(value: Any) -> Any:
    kind = type(value)
    if value is None or kind in (bool, float, Name, Opaque):
        return value
    if kind in (str, bytes) and len(value) <= _MOST_KEY:
        return value
    if kind is int and abs(value) < 2**60:
        return value
    raise ConversionError(f"a {kind.__name__} (or one of its size) as a key")


def _one(args: tuple, *kinds: type) -> Any:
    """The only argument, which must have one of these types; none gives an empty `kinds[0]`."""
    if not args:
        return kinds[0]()
    if len(args) != 1 or type(args[0]) not in kinds:
        raise ConversionError("a container that is made of something else")
    return args[0]


def _dict(args: tuple, limits: Limits) -> dict:
    """A dict from a dict or from pairs."""
    given = _one(args, dict, list, tuple)
    if type(given) is dict:
        return given
    limits.copy(given)
    if not all(type(pair) in (tuple, list) and len(pair) == 2 for pair in given):
        raise ConversionError("a dict that is made of no pairs")
    return {limits.key(key): value for key, value in given}


def _default_dict(args: tuple, limits: Limits) -> dict:
    """A dict from (factory, dict or pairs); the factory would fill gaps, and never does here."""
    return _dict(args[1:], limits)


def _list(args: tuple, limits: Limits) -> list:
    """A list from a list, tuple or set; a deque's maximum length is ignored."""
    given = _one(args[:1], list, tuple, set)
    if type(given) is list:
        return given
    limits.copy(given)
    return list(given)


def _tuple(args: tuple, limits: Limits) -> tuple:
    """A tuple from a tuple or list."""
    given = _one(args, tuple, list)
    limits.copy(given)
    return tuple(given)


def _set(args: tuple, limits: Limits) -> set:
    """A set from a list, tuple or set."""
    given = _one(args, list, tuple, set)
    limits.copy(given)
    return {limits.key(member) for member in given}


def _complex(args: tuple, limits: Limits) -> complex:
    """A complex number from up to two numbers."""
    del limits
    if len(args) > 2 or any(type(arg) not in (int, float) for arg in args):
        raise ConversionError("a complex number that is made of no numbers")
    try:
        return complex(*args)
    except OverflowError as error:
        raise ConversionError("a complex number that is too large") from error


def _encode(args: tuple, limits: Limits) -> bytes:
    """Bytes from text and the encoding latin-1, as protocols up to 2 write them."""
    if [*map(type, args)] != [str, str] or args[1] not in ("latin1", "latin-1"):
        raise ConversionError("bytes that are not made of latin-1 text")
    limits.copy(args[0])
    try:
        return args[0].encode("latin-1")
    except UnicodeEncodeError as error:
        raise ConversionError("bytes that are not made of latin-1 text") from error


def _bytes(args: tuple, limits: Limits) -> bytes:
    """Bytes from bytes, from text and its encoding, or from nothing."""
    if len(args) == 1 and type(args[0]) is bytes:
        return args[0]
    return _encode(args, limits) if args else b""


def _size(args: tuple, limits: Limits) -> tuple:
    """A torch.Size, which must hold counts."""
    size = _tuple(args, limits)
    if not all(map(is_count, size)):
        raise ConversionError("a torch.Size that holds no counts")
    return size


_BUILTINS: dict[str, Callable[[tuple, Limits], Any]] = {
    "list": _list,
    "dict": _dict,
    "tuple": _tuple,
    "set": _set,
    "frozenset": _set,
    "bytes": _bytes,
    "bytearray": _bytes,
    "complex": _complex,
}
CONTAINER_CALLS: dict[str, Callable[[tuple, Limits], Any]] = {
    **{f"{module}.{k}": v for module in ("builtins", "__builtin__") for k, v in _BUILTINS.items()},
    "torch.Size": _size,
    "_codecs.encode": _encode,
    "collections.OrderedDict": _dict,
    "collections.defaultdict": _default_dict,
    "collections.Counter": _dict,
    "collections.deque": _list,
}
