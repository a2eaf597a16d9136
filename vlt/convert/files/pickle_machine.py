"""The stack, marks and memo of a pickle, and the bytes that it is read from."""

import mmap
import re
from typing import Any

from vlt.convert.errors import ConversionError, UnsafePickleError
from vlt.convert.files.pickle_containers import Limits
from vlt.convert.files.pickle_names import refusal
from vlt.convert.files.placeholders import Name, Opaque, Storage

_MOST_OBJECTS = 20_000_000
_MOST_MARKS = 10_000
_COPIES = 4  # elements per byte of the pickle


class Machine:
    """The state of one pickle while it is read.

    data, position: the bytes, and where the next one is. may_refer: whether the pickle may refer to
    storages, which are recorded by key. stack, marks, memo: as in pickle.py; a mark keeps the stack
    below it.
    """

    def __init__(self, data: bytes | mmap.mmap, position: int, storages: bool) -> None:
        self.data = data
        self.position = position
        self.may_refer = storages
        self.storages: dict[str, Storage] = {}
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.names: dict[str, Name] = {}
        self.left = _MOST_OBJECTS
        self.limits = Limits()
        self.start = position

    def take(self, count: int) -> bytes:
        """Takes the next `count` bytes, no fewer."""
        if count > len(self.data) - self.position:
            raise ConversionError("broken pickle: it is cut short")
        self.position += count
        return self.data[self.position - count : self.position]

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def line(self) -> bytes:
        end = self.data.find(b"\n", self.position)
        if end < 0:
            raise ConversionError("broken pickle: it is cut short")
        return self.take(end - self.position + 1)[:-1]

    def decimal(self) -> int:
        """Reads a line that is an integer."""
        text = self.line().removesuffix(b"L")
        if not re.fullmatch(rb" *[+-]?[0-9]{1,2000} *", text):
            raise ConversionError("broken pickle: a line that is not an integer")
        return int(text)

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def make(self, value: Any) -> None:
        """Pushes an object that takes memory, and counts it."""
        self.count_object()
        self.stack.append(value)

    def count_object(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise ConversionError(f"the pickle makes more than {_MOST_OBJECTS} objects")

    def pop(self) -> Any:
        if not self.stack:
            raise ConversionError("broken pickle: nothing is on its stack")
        return self.stack.pop()

    def top(self) -> Any:
        value = self.pop()
        self.push(value)
        return value

    def mark(self) -> None:
        if len(self.marks) >= _MOST_MARKS:
            raise ConversionError(f"broken pickle: more than {_MOST_MARKS} marks are open")
        self.count_object()
        self.marks.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        """Pops the values above the last mark."""
        if not self.marks:
            raise ConversionError("broken pickle: no mark is on its stack")
        items, self.stack = self.stack, self.marks.pop()
        return items

    def pop_name(self) -> Name:
        name = self.pop()
        if type(name) is Opaque:
            raise UnsafePickleError(refusal(name.kind))
        if type(name) is not Name:
            raise ConversionError(f"broken pickle: it calls a {type(name).__name__}")
        return name

    def pop_args(self) -> tuple:
        args = self.pop()
        if type(args) is not tuple:
            raise ConversionError("broken pickle: the arguments of a call are not a tuple")
        return args

    def copying(self) -> Limits:
        """The limits, with as many copies as the bytes read so far allow."""
        self.limits.copies = _COPIES * (self.position - self.start) + 1000
        return self.limits

    def remember(self, index: int) -> None:
        if not 0 <= index < 2**32:
            raise ConversionError("broken pickle: a place in its memo that does not exist")
        self.count_object()
        self.memo[index] = self.top()

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise ConversionError("broken pickle: it refers to a value that it does not hold")
        self.push(self.memo[index])
