"""What a compiled program moves, read off its text (XLA's HLO).

A loop's body counts once: the text does not always say how often it runs.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

COLLECTIVES = (
    *("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"),
    "collective-broadcast",
)
# No bytes move: names for other values, or the end of a move that began elsewhere.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional"}
_FREE |= {"call", "opt-barrier", "after-all", "partition-id", "replica-id", "iota"}

_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%(\S+) = (\(.*?\)|\S+) ([a-z][a-z0-9-]*)\((.*)$")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+[a-z0-9]*)\[([\d,]*)\](\{[^}]*\})?")
_CALLED = re.compile(r"(?:body|to_apply|calls)=%?([\w.-]+)")
_NAME = re.compile(r"%([\w.-]+)")
_ON_CHIP = re.compile(r"S\([1-9]\d*\)")  # a memory space other than the device's main memory


class Instruction(NamedTuple):
    """One line of a computation.

    Attributes:
      shape: of its result, as text. operands: names of its operands. called: computations.
    """

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    called: tuple[str, ...]


Program = dict[str, list[Instruction]]  # by computation, the entry under ''


def parse(text: str) -> Program:
    """Computations of a module's text."""
    program: Program = {}
    current: list[Instruction] = []
    for line in text.split("\n"):
        if line.endswith("{") and not line.startswith((" ", "HloModule")):
            name = "" if line.startswith("ENTRY") else line.split(" ")[0].lstrip("%")
            current = program.setdefault(name, [])
        elif match := _INSTRUCTION.match(line):
            name, shape, opcode, rest = match.groups()
            operands = tuple(_NAME.findall(rest[: _closing(rest)]))
            current.append(Instruction(name, shape, opcode, operands, tuple(_CALLED.findall(rest))))
    return program


def _closing(text: str) -> int:
    """Where the parenthesis ends that was opened before the text."""
    depth = 1
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return place
    return len(text)


def nbytes(shape: str, main_memory: bool = False) -> int:
    """Bytes of a shape's arrays, padding left out; with `main_memory` of those that lie there."""
    total = 0
    for kind, dims, layout in _ARRAY.findall(shape):
        if not (main_memory and _ON_CHIP.search(layout)):
            bits = 8 if kind == "pred" else int(re.sub(r"^[a-z]+(\d+).*", r"\1", kind))
            total += math.prod(map(int, filter(None, dims.split(",")))) * bits // 8
    return total


def executed(program: Program, computation: str = "") -> Iterator[Instruction]:
    """The entry's instructions, and those of the loops and branches that it calls."""
    for instruction in program[computation]:
        yield instruction
        if instruction.opcode in ("while", "conditional", "call"):
            for called in instruction.called:
                yield from executed(program, called)


def collectives(program: Program) -> dict[str, dict[str, int]]:
    """{kind: {"count": its calls, "bytes": what one device has of their results}}."""
    found: dict[str, dict[str, int]] = {}
    for instruction in executed(program):
        kind = instruction.opcode.removesuffix("-start")
        if kind in COLLECTIVES:
            entry = found.setdefault(kind, {"count": 0, "bytes": 0})
            entry["count"] += 1
            entry["bytes"] += _result_bytes(instruction)
    return found


def _result_bytes(instruction: Instruction) -> int:
    """Of an asynchronous start, whose tuple holds operands and results, the largest array."""
    if instruction.opcode.endswith("-start") and instruction.shape.startswith("("):
        return max(_array_bytes(instruction.shape), default=0)
    return nbytes(instruction.shape)


def _array_bytes(shape: str) -> list[int]:
    """Bytes of each array of a shape that is no scalar."""
    return [nbytes(match[0]) for match in _ARRAY.finditer(shape) if match[2]]


def memory_traffic(program: Program) -> int:
    """Bytes that go to and from main memory: what every instruction reads and writes of it."""
    places = {i.name: nbytes(i.shape, main_memory=True) for i in executed(program)}
    total = 0
    for instruction in executed(program):
        opcode = instruction.opcode
        if opcode in _FREE or opcode.endswith("-done"):
            continue
        if opcode.endswith("-start"):  # from one memory to another: the main one is touched once
            total += min(_array_bytes(instruction.shape), default=0)
        else:
            read = sum(places.get(name, 0) for name in set(instruction.operands))
            total += places[instruction.name] + read
    return total
