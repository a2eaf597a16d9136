"""A pickle reader that cannot run code.

It is a machine of its own rather than a subclass of pickle.Unpickler, whose opcodes call what they
find: REDUCE any callable, BUILD any `__setstate__`, APPENDS any `extend`. Here each opcode is one
short function of a closed table. Values are of Python's exact plain types, or the placeholders of
vlt.convert.files.placeholders, which have no behaviour; a call is looked up by name in
vlt.convert.files.pickle_names. The only methods called on values are those of exact lists, dicts
and sets. Arrays are made afterwards, by vlt.convert.files.resolve.

Format: pickletools.py. Out-of-band buffers, extension codes and persistent ids in text form are
refused. Claimed lengths are checked against the bytes present before anything is made, and
objects are counted as they are made.
"""

import codecs
import mmap
import struct
from collections.abc import Callable
from pickletools import opcodes
from typing import Any, NamedTuple

from vlt.convert.errors import ConversionError
from vlt.convert.files.arrays import is_count
from vlt.convert.files.pickle_arrays import STORAGE_KINDS, fill_array, order_type
from vlt.convert.files.pickle_machine import Machine
from vlt.convert.files.pickle_names import admit, call, instantiate
from vlt.convert.files.placeholders import Module, Name, NumpyArray, NumpyType, Opaque, Storage

_MOST_NUMBER = 1024  # bytes of an integer
_MOST_NAME = 1000
_PROTOCOL = 5
_PLAIN_BUILD = (dict, list, set, Opaque)


class Parsed(NamedTuple):
    """value: made of plain values and placeholders. end: position after the pickle. storages: by
    key, each as first referred to."""

    value: Any
    end: int
    storages: dict[str, Storage]


def parse(data: bytes | mmap.mmap, position: int = 0, storages: bool = False) -> Parsed:
    """Reads the pickle at `position`.

    storages: whether it may refer to bytes outside the pickle, as torch's do.

    Raises: ConversionError for a broken pickle, UnsafePickleError for one that asks for code.
    """
    machine = Machine(data, position, storages)
    while (code := machine.number(1)) != _STOP:
        handler = _OPCODES.get(code)
        if handler is None:
            refused = _REFUSED.get(code, "no opcode")
            raise ConversionError(f"broken pickle: byte {machine.position - 1} is {refused}")
        handler(machine)
    return Parsed(machine.pop(), machine.position, machine.storages)


# Numbers and texts


def _text(data: bytes) -> str | bytes:
    """The text if the bytes are UTF-8, else the bytes: Python 2's strings may hold any."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data


def _sized(width: int, convert: Callable[[bytes], Any]) -> Callable[[Machine], None]:
    """Makes a handler that pushes what follows a length of `width` bytes."""

    def push(machine: Machine) -> None:
        machine.make(convert(machine.take(machine.number(width))))

    return push


def _signed(data: bytes) -> int:
    if len(data) > _MOST_NUMBER:
        raise ConversionError(f"an integer of more than {_MOST_NUMBER} bytes")
    return int.from_bytes(data, "little", signed=True)


def _int(machine: Machine) -> None:
    # Protocols 0 and 1 write False and True as the integers 00 and 01.
    if machine.data[machine.position : machine.position + 3] in (b"00\n", b"01\n"):
        machine.push(machine.line() == b"01")
    else:
        machine.make(machine.decimal())


def _float(machine: Machine) -> None:
    text = machine.line()
    try:
        machine.make(float(text))
    except ValueError as error:
        raise ConversionError("broken pickle: a line that is not a number") from error


def _quoted(machine: Machine) -> None:
    line = machine.line().strip()
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise ConversionError("broken pickle: a string without its quotes")
    try:
        text, _ = codecs.escape_decode(line[1:-1])
    except ValueError as error:
        raise ConversionError("broken pickle: a string with broken escapes") from error
    machine.make(_text(text))


def _unicode(machine: Machine) -> None:
    try:
        text = machine.line().decode("raw-unicode-escape")
        text.encode("utf-8")
    except UnicodeError as error:
        raise ConversionError("broken pickle: a text with broken escapes") from error
    machine.make(text)


# Containers


def _tuple_of(count: int) -> Callable[[Machine], None]:
    def make(machine: Machine) -> None:
        items = [machine.pop() for _ in range(count)]
        machine.make(tuple(items[::-1]))

    return make


def _pairs(machine: Machine, items: list[Any]) -> list[tuple[Any, Any]]:
    if len(items) % 2:
        raise ConversionError("broken pickle: a key without a value")
    return [(machine.limits.key(k), v) for k, v in zip(items[::2], items[1::2], strict=True)]


def _dict(machine: Machine) -> None:
    machine.make(dict(_pairs(machine, machine.pop_mark())))


def _set(machine: Machine) -> None:
    machine.make({machine.limits.key(item) for item in machine.pop_mark()})


def _append(machine: Machine, items: list[Any]) -> None:
    target = machine.top()
    if type(target) is list:
        target += items
    elif type(target) is not Opaque:
        raise ConversionError(f"broken pickle: it appends to a {type(target).__name__}")


def _set_items(machine: Machine, items: list[Any]) -> None:
    target = machine.top()
    if type(target) is dict:
        target.update(_pairs(machine, items))
    elif type(target) is not Opaque:
        raise ConversionError(f"broken pickle: it sets items of a {type(target).__name__}")


def _add_items(machine: Machine) -> None:
    items = machine.pop_mark()
    target = machine.top()
    if type(target) is set:
        target.update([machine.limits.key(item) for item in items])
    elif type(target) is not Opaque:
        raise ConversionError(f"broken pickle: it adds to a {type(target).__name__}")


def _two(machine: Machine) -> list[Any]:
    value = machine.pop()
    return [machine.pop(), value]


# The stack and the memo


def _pop(machine: Machine) -> None:
    if machine.stack:
        machine.pop()
    else:
        machine.pop_mark()


def _pop_mark(machine: Machine) -> None:
    machine.pop_mark()


def _protocol(machine: Machine) -> None:
    if machine.number(1) > _PROTOCOL:
        raise ConversionError(f"a pickle of a protocol after {_PROTOCOL}")


def _frame(machine: Machine) -> None:
    # Frames help streaming readers; here all bytes are present.
    if machine.number(8) > len(machine.data) - machine.position:
        raise ConversionError("broken pickle: it is cut short")


# Names, calls, states


def _global(machine: Machine, module: Any, name: Any) -> None:
    if type(module) is not str or type(name) is not str:
        raise ConversionError("broken pickle: a name that is not text")
    if len(module) + len(name) > _MOST_NAME:
        raise ConversionError(f"a name of more than {_MOST_NAME} characters")
    full = f"{module}.{name}"
    if full not in machine.names:
        machine.names[full] = admit(full)
    machine.make(machine.names[full])


def _stack_global(machine: Machine) -> None:
    module, name = _two(machine)
    _global(machine, module, name)


def _call(machine: Machine, name: Name, args: tuple) -> None:
    machine.make(call(name, args, machine.copying()))


def _reduce(machine: Machine) -> None:
    args = machine.pop_args()
    _call(machine, machine.pop_name(), args)


def _inst(machine: Machine) -> None:
    _global(machine, _text(machine.line()), _text(machine.line()))
    name = machine.pop_name()
    _call(machine, name, tuple(machine.pop_mark()))


def _obj(machine: Machine) -> None:
    items = machine.pop_mark()
    if not items or type(items[0]) is not Name:
        raise ConversionError("broken pickle: an object of no class")
    _call(machine, items[0], tuple(items[1:]))


def _new(machine: Machine) -> None:
    args = machine.pop_args()
    name = machine.pop_name()
    machine.make(instantiate(name, args, machine.copying()))


def _new_with_keywords(machine: Machine) -> None:
    keywords = machine.pop()
    args = machine.pop_args()
    name = machine.pop_name()
    if type(keywords) is not dict:
        raise ConversionError("broken pickle: the keywords of a call are not a dict")
    made = instantiate(name, args, machine.copying())
    if keywords and type(made) is not Opaque:
        raise ConversionError(f"a {name} that is made with keywords")
    machine.make(made)


def _build(machine: Machine) -> None:
    """Sets a state, which matters only for numpy's arrays and dtypes and TorchScript modules."""
    state = machine.pop()
    target = machine.top()
    if type(target) is NumpyArray:
        fill_array(target, state)
    elif type(target) is NumpyType:
        order_type(target, state)
    elif type(target) is Module and type(state) is dict:
        target.attributes = state
    elif type(target) not in _PLAIN_BUILD:
        raise ConversionError(f"broken pickle: it sets the state of a {type(target).__name__}")


def _storage(machine: Machine) -> None:
    """('storage', type, key, location, count[, None or (view key, first, count)]), or for a class
    ('module', class, file, source)."""
    pid = machine.pop()
    if not machine.may_refer or type(pid) is not tuple or not 4 <= len(pid) <= 6:
        raise ConversionError("refers to an unknown object outside of the pickle")
    word, kind, *rest = pid
    if type(word) is not str or type(kind) is not Name:
        raise ConversionError("refers to an unknown object outside of the pickle")
    if word == "module":
        machine.push(kind)
    elif word == "storage" and len(pid) > 4:
        storage = _stored(kind.full, *rest)
        machine.storages.setdefault(storage.key, storage)
        machine.make(storage)
    else:
        raise ConversionError("refers to an unknown object outside of the pickle")


def _stored(kind: str, key: Any, location: Any, whole: Any, view: Any = None) -> Storage:
    del location
    if kind not in STORAGE_KINDS:
        raise ConversionError(f"a storage of the type {kind}")
    if type(key) is not str or not is_count(whole):
        raise ConversionError("a storage without a key or a count")
    first, count = (0, whole) if view is None else _view(view, whole)
    return Storage(STORAGE_KINDS[kind], key, whole, first, count)


def _view(view: Any, whole: int) -> tuple[int, int]:
    if type(view) is not tuple or len(view) != 3 or not all(map(is_count, view[1:])):
        raise ConversionError("a view that is not part of its storage")
    _, first, count = view
    if first + count > whole:
        raise ConversionError("a view that is not part of its storage")
    return first, count


_Handler = Callable[[Machine], None]
_HANDLERS: dict[str, _Handler] = {
    "NONE": lambda m: m.push(None),
    "NEWTRUE": lambda m: m.push(True),
    "NEWFALSE": lambda m: m.push(False),
    "INT": _int,
    "LONG": lambda m: m.make(m.decimal()),
    "BININT": lambda m: m.push(_signed(m.take(4))),
    "BININT1": lambda m: m.push(m.number(1)),
    "BININT2": lambda m: m.push(m.number(2)),
    "LONG1": _sized(1, _signed),
    "LONG4": _sized(4, _signed),
    "FLOAT": _float,
    "BINFLOAT": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    "STRING": _quoted,
    "BINSTRING": _sized(4, _text),
    "SHORT_BINSTRING": _sized(1, _text),
    "UNICODE": _unicode,
    "SHORT_BINUNICODE": _sized(1, _text),
    "BINUNICODE": _sized(4, _text),
    "BINUNICODE8": _sized(8, _text),
    "SHORT_BINBYTES": _sized(1, bytes),
    "BINBYTES": _sized(4, bytes),
    "BINBYTES8": _sized(8, bytes),
    "BYTEARRAY8": _sized(8, bytes),
    "EMPTY_LIST": lambda m: m.make([]),
    "EMPTY_DICT": lambda m: m.make({}),
    "EMPTY_SET": lambda m: m.make(set()),
    "EMPTY_TUPLE": lambda m: m.push(()),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "TUPLE": lambda m: m.make(tuple(m.pop_mark())),
    "LIST": lambda m: m.make(m.pop_mark()),
    "DICT": _dict,
    "FROZENSET": _set,
    "APPEND": lambda m: _append(m, [m.pop()]),
    "APPENDS": lambda m: _append(m, m.pop_mark()),
    "SETITEM": lambda m: _set_items(m, _two(m)),
    "SETITEMS": lambda m: _set_items(m, m.pop_mark()),
    "ADDITEMS": _add_items,
    "MARK": Machine.mark,
    "POP": _pop,
    "POP_MARK": _pop_mark,
    "DUP": lambda m: m.push(m.top()),
    "GET": lambda m: m.recall(m.decimal()),
    "BINGET": lambda m: m.recall(m.number(1)),
    "LONG_BINGET": lambda m: m.recall(m.number(4)),
    "PUT": lambda m: m.remember(m.decimal()),
    "BINPUT": lambda m: m.remember(m.number(1)),
    "LONG_BINPUT": lambda m: m.remember(m.number(4)),
    "MEMOIZE": lambda m: m.remember(len(m.memo)),
    "PROTO": _protocol,
    "FRAME": _frame,
    "GLOBAL": lambda m: _global(m, _text(m.line()), _text(m.line())),
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "INST": _inst,
    "OBJ": _obj,
    "NEWOBJ": _new,
    "NEWOBJ_EX": _new_with_keywords,
    "BUILD": _build,
    "BINPERSID": _storage,
}
_OPCODES = {ord(op.code): _HANDLERS[op.name] for op in opcodes if op.name in _HANDLERS}
_REFUSED = {ord(op.code): f"{op.name}, which is refused" for op in opcodes}
_STOP = ord(".")
